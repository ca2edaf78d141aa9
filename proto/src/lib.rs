//! The generated modules and the descriptor set for reflection; nothing else.

/// `countersign.v1`: messages, clients and servers.
pub mod v1 {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        unused_qualifications,
        elided_lifetimes_in_paths
    )]
    tonic::include_proto!("countersign.v1");
}

/// The encoded `FileDescriptorSet` of every file, well-known types included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/countersign.v1.bin"));
