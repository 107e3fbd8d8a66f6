//! Layers that came as a plain tar, in the form in which they travel.

use std::io;

use flate2::Compression;
use flate2::write::GzEncoder;
use vocab::Digest;
use vocab::manifest::media_type;

use crate::layers::{Layer, ReceiveError};
use crate::store::Store;

impl Store {
    /// The layer of this diff id in a compressed form: one in which it came or was sent before, else
    /// as gzip, always of the same bytes. What is made is read back as a layer that came from
    /// outside would be, and kept. `None` if the layer, or its plain form, is not there.
    pub fn compress_layer(&self, diff_id: &Digest) -> Result<Option<Layer>, ReceiveError> {
        let metadata = |source| ReceiveError::Metadata {
            layer: diff_id.to_string(),
            source,
        };
        let write = |source| ReceiveError::Write {
            layer: diff_id.to_string(),
            source,
        };
        // The shortest form comes first.
        let Some(layer) = self.find_layer(diff_id).map_err(metadata)? else {
            return Ok(None);
        };
        let is_here = self.find_blob(&layer.blob().digest).map_err(write)?;
        let Some(mut plain) = is_here else {
            return Ok(None);
        };
        if layer.blob().media_type != media_type::OCI_LAYER {
            return Ok(Some(layer));
        }
        let mut ingest = self.receive_layer(None, None, Some(diff_id))?;
        let mut gzip = GzEncoder::new(&mut ingest, Compression::default());
        let copied = io::copy(&mut plain, &mut gzip).and_then(|_| gzip.finish().map(drop));
        match (copied, ingest.commit()) {
            // What could not be read is another layer; what could not be written is told in full.
            (Err(source), Ok(_) | Err(ReceiveError::DiffId { .. })) => Err(write(source)),
            (_, committed) => committed.map(Some),
        }
    }
}
