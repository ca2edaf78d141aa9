//! Records: what one key of the log, or several, hold.

use sha2::{Digest, Sha256};

use crate::cluster::consensus::{Chain, Entry, Input, Malformed, decode_entry};
use crate::cluster::engine::{Change, Engine, Pair, Tree};

const CHUNK: usize = 3 * 1024;
const CHECKSUM: usize = 16;

/// Chunks of consecutive records, put together and checked.
pub(super) fn records(pairs: Vec<Pair>) -> Result<Vec<(Entry, Chain)>, String> {
    let mut whole: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut chunk = 0;
    for (key, value) in pairs {
        let index = index_of(&key)?;
        match whole.last_mut().filter(|(current, _)| *current == index) {
            Some((_, bytes)) => {
                chunk += 1;
                bytes.extend(value);
            }
            None => {
                chunk = 0;
                whole.push((index, value));
            }
        }
        if key[8..] != u16::to_be_bytes(chunk) {
            return Err(format!("entry {index} is not whole"));
        }
    }
    whole
        .into_iter()
        .map(|(index, bytes)| record(index, &bytes).map_err(|e| format!("entry {index} {e}")))
        .collect()
}

fn record(index: u64, bytes: &[u8]) -> Result<(Entry, Chain), String> {
    let body = unframed(Tree::Log, &index.to_be_bytes(), bytes)?;
    let read = || -> Result<_, Malformed> {
        let mut input = Input(body);
        let chain = Chain(input.hash()?);
        Ok((decode_entry(input.rest())?, chain))
    };
    let (entry, chain) = read().map_err(|e| format!("cannot be read: {e}"))?;
    if entry.log_id.index == index { Ok((entry, chain)) } else { Err("is another entry".into()) }
}

pub(super) fn put_record(changes: &mut Vec<Change>, index: u64, chain: Chain, encoded: &[u8]) {
    let mut body = chain.0.to_vec();
    body.extend(encoded);
    let record = framed(Tree::Log, &index.to_be_bytes(), &body);
    for (chunk, bytes) in record.chunks(CHUNK).enumerate() {
        changes.push(Change::Put(key(index, chunk as u16), bytes.to_vec()));
    }
}

pub(super) fn meta(engine: &dyn Engine, name: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let mut end = name.to_vec();
    end.push(0);
    let pairs = engine.scan(Tree::Meta, name.to_vec()..end).map_err(|e| e.to_string())?;
    let said = |e| format!("its record \"{}\" {e}", String::from_utf8_lossy(name));
    pairs
        .first()
        .map(|(_, value)| unframed(Tree::Meta, name, value).map(<[u8]>::to_vec).map_err(said))
        .transpose()
}

/// Length and checksum before the body. The checksum covers the place too: a record moved elsewhere is no record.
pub(super) fn framed(tree: Tree, place: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + CHECKSUM + body.len());
    out.extend((body.len() as u32).to_be_bytes());
    out.extend(checksum(tree, place, body));
    out.extend(body);
    out
}

fn unframed<'a>(tree: Tree, place: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], String> {
    let mut input = Input(bytes);
    let (Ok(length), Ok(sum)) = (input.count(), input.take(CHECKSUM)) else {
        return Err("is cut off".into());
    };
    let body = input.rest();
    if body.len() != length {
        return Err(format!("has {} of its {length} bytes", body.len()));
    }
    if checksum(tree, place, body) == sum {
        Ok(body)
    } else {
        Err("does not match its checksum".into())
    }
}

fn checksum(tree: Tree, place: &[u8], body: &[u8]) -> [u8; CHECKSUM] {
    let mut hash = Sha256::new();
    hash.update([tree as u8, place.len() as u8]);
    hash.update(place);
    hash.update(body);
    let whole: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|i| whole[i])
}

pub(super) fn key(index: u64, chunk: u16) -> Vec<u8> {
    let mut key = index.to_be_bytes().to_vec();
    key.extend(chunk.to_be_bytes());
    key
}

pub(super) fn index_of(key: &[u8]) -> Result<u64, String> {
    let (index, _chunk) = key
        .split_first_chunk()
        .filter(|(_, chunk)| chunk.len() == 2)
        .ok_or("it has a key that is none of its own")?;
    Ok(u64::from_be_bytes(*index))
}
