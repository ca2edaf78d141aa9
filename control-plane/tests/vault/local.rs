//! Secrets of one node's disk.

use countersign_control_plane::cluster::Barrier as _;
use countersign_control_plane::vault::SealError;

use crate::{again, vault};

const CONTEXT: [&str; 3] = ["signing-key", "c1", "node-1"];

#[test]
fn a_local_secret_opens_again_after_a_restart_and_after_a_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let made = vault(dir.path());
    let sealed = made.seal_local(&CONTEXT, b"seed");
    assert!(!sealed.windows(4).any(|bytes| bytes == b"seed"));
    made.adopt(&made.rotate(1)).unwrap();
    assert_eq!(made.open_local(&CONTEXT, &sealed).unwrap().as_slice(), b"seed");
    drop(made);
    assert_eq!(again(dir.path()).open_local(&CONTEXT, &sealed).unwrap().as_slice(), b"seed");
}

#[test]
fn a_local_secret_opens_nowhere_else_under_no_other_context_and_not_changed() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = vault(here.path());
    let sealed = ours.seal_local(&CONTEXT, b"seed");
    let refused = vault(there.path()).open_local(&CONTEXT, &sealed);
    assert!(matches!(refused, Err(SealError::Tampered)));
    for context in [
        &["signing-key", "c1", "node-2"][..],
        &["signing-key", "c1node-1", ""],
        &["signing-key", "c1"],
        &["signing-key", "c1", "node-1", ""],
        &[],
    ] {
        assert!(ours.open_local(context, &sealed).is_err(), "{context:?}");
    }
    for position in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[position] ^= 1;
        assert!(ours.open_local(&CONTEXT, &changed).is_err(), "byte {position}");
        assert!(ours.open_local(&CONTEXT, &sealed[..position]).is_err(), "cut at {position}");
    }
}
