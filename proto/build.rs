//! Compiles the .proto files in process (no protoc needed) and keeps the descriptor set for reflection.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "countersign/v1/gateway.proto",
        "countersign/v1/cluster.proto",
        "countersign/v1/admin.proto",
    ];
    println!("cargo:rerun-if-changed=countersign");
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("countersign.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
