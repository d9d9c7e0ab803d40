//! `workloads/README.md` documents every field there is, and every shipped workload and driver can be read.

use std::path::{Path, PathBuf};

use highwater_bench::broker::driver::Driver;
use highwater_bench::workload::{Workload, fields};

fn workloads() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../workloads")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

#[test]
fn every_field_is_documented() {
    let page = std::fs::read_to_string(workloads().join("README.md")).unwrap();
    for field in fields() {
        let name = field.strip_prefix("grid.").or(field.strip_prefix("defaults.")).unwrap_or(&field);
        assert!(page.contains(&format!("`{name}`")), "workloads/README.md does not mention `{name}`");
    }
}

#[test]
fn every_shipped_workload_is_valid_and_has_cells() {
    let shipped = files(&workloads());
    assert!(!shipped.is_empty());
    for path in shipped {
        let workload = Workload::read(&path).unwrap_or_else(|error| panic!("{error}"));
        assert!(!workload.expand(&workload.brokers, None).unwrap().is_empty(), "{}", path.display());
        assert_eq!(path.file_stem().unwrap().to_str(), Some(workload.name.as_str()));
    }
}

#[test]
fn every_shipped_driver_is_valid() {
    let directory = workloads().join("brokers");
    for path in files(&directory) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        Driver::read(&directory, name).unwrap_or_else(|error| panic!("{error}"));
    }
}
