//! Kernels without a device: compiled for the host, and their text against their source.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::*;
use crate::cuda::{kernel, sums};

const ALL: [(Source, [usize; 2]); 2] = [(kernel::SOURCE, [2, 3]), (sums::SOURCE, [3, 1])];

/// A kernel's source compiled as C, with a `main` that runs its threads. In a folder of its own.
pub(crate) fn build(source: &Source, main: &str) -> PathBuf {
    let name = source.file.strip_suffix(".cu").unwrap();
    let built = std::env::temp_dir().join(format!("larder-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&built).unwrap();
    // What is C++ alone.
    let as_c = source.source.replace("extern \"C\" ", "");
    std::fs::write(built.join(format!("{name}.c")), as_c).unwrap();
    std::fs::write(built.join("on_host.c"), main).unwrap();
    let program = built.join("run");
    let compiled = Command::new("cc")
        .args(["-O1", "-std=c11", "-Wall", "-Werror", "-Wno-unknown-pragmas"])
        .args(["-fsanitize=undefined", "-fno-sanitize-recover=all", "-I"])
        .arg(&built)
        .arg(built.join("on_host.c"))
        .arg("-o")
        .arg(&program)
        .status();
    assert!(compiled.expect("a C compiler").success());
    program
}

/// What a program makes of its input.
pub(crate) fn feed(program: &Path, input: Vec<u8>) -> Vec<u8> {
    let mut child =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    output.stdout
}

#[test]
fn text_has_the_entry_that_is_looked_for() {
    for (source, [longs, shorts]) in ALL {
        let name = source.name.to_str().unwrap();
        assert!(source.text.contains(&format!(".visible .entry {name}(")));
        assert!(source.text.contains(".target sm_70"));
        let count = |kind| source.text.matches(&format!(".param .{kind} {name}_param")).count();
        assert_eq!([count("u64"), count("u32")], [longs, shorts]);
    }
}

/// With `LARDER_WRITE_TEXT=1` it is written anew. Lines that begin with `//` say which compiler.
#[test]
#[ignore = "needs libnvrtc.so.12 of CUDA 12.0 on LD_LIBRARY_PATH"]
fn text_is_what_the_compiler_makes_of_the_source() {
    for (source, _) in ALL {
        let made = source.compile([7, 0]).unwrap();
        let name = source.file.replace(".cu", ".ptx");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda").join(name);
        if std::env::var_os("LARDER_WRITE_TEXT").is_some() {
            std::fs::write(path, &made).unwrap();
            continue;
        }
        let code = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with("//")).map(str::to_owned).collect()
        };
        assert_eq!(code(&made), code(source.text));
    }
}
