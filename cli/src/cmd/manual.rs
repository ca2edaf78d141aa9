//! `countersign completions` and `countersign man`: from the same source as `--help`.

use clap::CommandFactory as _;

use crate::args::{Args, Completions, Man};
use crate::failure::{Done, Failure};
use crate::print;

pub(crate) fn completions(command: &Completions) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut Args::command(), "countersign", &mut script);
    print::bytes(&script)
}

pub(crate) fn man(command: &Man) -> Done {
    let dir = &command.dir;
    let written =
        std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Args::command(), dir));
    written.map_err(|error| {
        Failure::Refused(format!("the man pages cannot be written to {}: {error}", dir.display()))
    })?;
    print::line(&format!("The man pages are in {}.", dir.display()))
}
