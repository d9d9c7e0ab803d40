//! Bytes on disk that must not change by accident: each is kept as a file in `tests/golden`, and described in
//! `docs/format.md`. `HIGHWATER_BLESS=1` writes them anew after a change of format, in the same commit as the document.

use std::path::PathBuf;

/// Compares `bytes` with the file of this name.
pub(crate) fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("HIGHWATER_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("has one")).expect("created");
        std::fs::write(&path, bytes).expect("written");
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let first =
        golden.iter().zip(bytes).position(|(was, is)| was != is).unwrap_or(golden.len().min(bytes.len()));
    assert!(
        golden == bytes,
        "{name} differs from byte {first} on ({} bytes were, {} are): a change of format changes docs/format.md and this \
         file (HIGHWATER_BLESS=1) in one commit",
        golden.len(),
        bytes.len()
    );
}
