//! The store as its users see it: real tars, real files, a real kernel.

mod archives;
mod erofs;
mod hostile;
mod images;
mod interruption;
mod layers;
mod scratch;
