//! Opening by path: what is not a file, and models split over several files.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use std::path::{Path, PathBuf};
use zinc_gguf::writer::Writer;
use zinc_gguf::{Gguf, Value};
use zinc_quant::GgmlType;

/// An empty folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn check_refused(path: &Path, expected: &str) {
    let message = match Gguf::open(path) {
        Ok(_) => panic!("opened {}, expected: {expected}", path.display()),
        Err(error) => error.to_string(),
    };
    assert!(message.contains(expected), "{message}\nexpected: {expected}");
    assert!(message.contains(".gguf"), "{message}\nmust name the file");
}

#[test]
fn not_a_readable_file() {
    let folder = folder("not_a_readable_file");
    let path = |name: &str| folder.join(name);
    check_refused(&path("absent.gguf"), "absent.gguf: ");
    std::fs::create_dir(path("folder.gguf")).unwrap();
    check_refused(&path("folder.gguf"), "is a directory, not a regular file");
    std::fs::write(path("empty.gguf"), "").unwrap();
    check_refused(&path("empty.gguf"), "the file is empty");
    std::fs::write(path("page.gguf"), "<!DOCTYPE html>").unwrap();
    check_refused(&path("page.gguf"), "not a GGUF file");
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_refused_without_waiting() {
    let folder = folder("pipes");
    let pipe = folder.join("pipe.gguf");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if made.is_ok_and(|status| status.success()) {
        check_refused(&pipe, "is a pipe, socket or device");
    } else {
        eprintln!("skipped: no mkfifo");
    }
    let device = folder.join("device.gguf");
    std::os::unix::fs::symlink("/dev/zero", &device).unwrap();
    check_refused(&device, "is a pipe, socket or device");
}

/// What part `number` (from 0) of three says about itself, for tests to get wrong.
#[derive(Clone)]
struct Part {
    number: u16,
    count: u16,
    n_tensors: i32,
    tensor: String,
}

fn parts() -> Vec<Part> {
    let part = |number| Part { number, count: 3, n_tensors: 3, tensor: format!("t{number}") };
    (0..3).map(part).collect()
}

fn write_parts(folder: &Path, parts: &[Part]) -> PathBuf {
    for (i, part) in parts.iter().enumerate() {
        let mut writer = Writer::new();
        if i == 0 {
            writer.value("general.architecture", Value::String("llama".into()));
        }
        writer
            .value("split.no", Value::U16(part.number))
            .value("split.count", Value::U16(part.count))
            .value("split.tensors.count", Value::I32(part.n_tensors))
            .tensor(&part.tensor, GgmlType::I8, &[4], vec![i as u8; 4]);
        std::fs::write(shard_path(folder, i + 1), writer.to_bytes()).unwrap();
    }
    shard_path(folder, 1)
}

fn shard_path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("my-model-{number:05}-of-00003.gguf"))
}

#[test]
fn split_model_opens_from_its_first_part() {
    let first = write_parts(&folder("split_good"), &parts());
    let gguf = Gguf::open(&first).unwrap();
    assert_eq!(gguf.shards().len(), 3);
    assert_eq!(gguf.shards()[0].path.as_deref(), Some(&*first));
    assert_eq!(gguf.metadata().require_str("general.architecture").unwrap(), "llama");
    let names: Vec<_> = gguf.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["t0", "t1", "t2"]);
    for shard in 0..3 {
        let tensor = gguf.tensor(&format!("t{shard}")).unwrap();
        assert_eq!(tensor.shard, shard);
        assert_eq!(*gguf.data(tensor), [shard as u8; 4]);
    }
}

#[test]
fn split_models_that_do_not_fit_together() {
    let check = |name: &str, change: fn(&mut [Part]), expected: &str| {
        let mut parts = parts();
        change(&mut parts);
        check_refused(&write_parts(&folder(name), &parts), expected);
    };
    check(
        "split_no",
        |p| p[2].number = 1,
        "00003-of-00003.gguf: split model: split.no is 1, expected 2",
    );
    check("split_count", |p| p[1].count = 4, "split.count is 4, expected 3");
    check(
        "split_first_count",
        |p| p[0].count = 4,
        "the file name says 3 parts, split.count says 4",
    );
    check(
        "split_unsplit",
        |p| p[0].count = 0,
        "says part 1 of 3, but its metadata has no split.count",
    );
    check(
        "split_tensors",
        |p| p[0].n_tensors = 4,
        "split.tensors.count is 4, but the parts hold 3 tensors",
    );
    check("split_negative", |p| p[0].n_tensors = -1, "\"split.tensors.count\" is -1, out of range");
    check("split_twice", |p| p[2].tensor = "t0".into(), "tensor name \"t0\" occurs twice");
    check(
        "split_swapped",
        |p| p.swap(0, 1),
        "this is part 2 of a split model; open the first part",
    );
}

#[test]
fn split_model_with_a_wrong_path() {
    let folder = folder("split_path");
    let first = write_parts(&folder, &parts());
    check_refused(&shard_path(&folder, 2), "this is part 2 of a split model; open the first part");
    let renamed = folder.join("renamed.gguf");
    std::fs::copy(&first, &renamed).unwrap();
    check_refused(&renamed, "names must end in -00001-of-00003.gguf");
    std::fs::remove_file(shard_path(&folder, 3)).unwrap();
    check_refused(&first, "my-model-00003-of-00003.gguf, is missing");
}
