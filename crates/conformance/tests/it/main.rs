//! The cases against the reference runtimes, which proves what the cases expect.

mod runc {
    conformance::topics!(testkit::tool("runc"));
}

mod crun {
    conformance::topics!(testkit::tool("crun"));
}
