//! Brotli (RFC 7932), without large windows.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::{BROKEN, STEP, Step};
use crate::body::Undecodable;

pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    step: Vec<u8>,
    total: usize,
}

impl Default for Brotli {
    fn default() -> Self {
        let alloc = StandardAlloc::default;
        let state = BrotliState::new_strict(alloc(), alloc(), alloc());
        Self { state, step: vec![0; STEP], total: 0 }
    }
}

impl Brotli {
    pub(super) fn step(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Step, Undecodable> {
        let (mut left, mut read) = (input.len(), 0);
        let (mut room, mut made) = (self.step.len(), 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut read,
            input,
            &mut room,
            &mut made,
            &mut self.step,
            &mut self.total,
            &mut self.state,
        );
        out.extend_from_slice(self.step.get(..made).ok_or(BROKEN)?);
        *input = input.get(read..).ok_or(BROKEN)?;
        match result {
            BrotliResult::NeedsMoreOutput => Ok(Step::More),
            BrotliResult::NeedsMoreInput => Ok(Step::Hungry),
            BrotliResult::ResultSuccess => Ok(Step::Ended),
            BrotliResult::ResultFailure => Err(BROKEN),
        }
    }
}
