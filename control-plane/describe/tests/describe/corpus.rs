//! Every file that fuzzing has found worth keeping, through its target once more (`tests/fuzz` looks for others).

#[path = "../../../../tests/fuzzing/src/describe.rs"]
pub(crate) mod targets;

use std::path::Path;

#[test]
fn every_file_of_the_corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzzing/corpus");
    for (name, target) in targets::TARGETS {
        let mut count = 0;
        for file in
            std::fs::read_dir(corpus.join(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
        {
            let path = file.expect("a file").path();
            // What falls is said by the name of the last line.
            println!("{}", path.display());
            target(&std::fs::read(&path).expect("it can be read"));
            count += 1;
        }
        assert!(count > 0, "{name} has a corpus");
        target(&[]);
    }
}
