//! The header is what the library does: a program in C uses all of it, against a real node.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

use larder_client::Key;
use larder_client::number::ALL;
use larder_node::config::Config;
use larder_node::node::Node;
use larder_transport::pieces::PIECES_MAX;

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn header() -> PathBuf {
    folder().join("../include/larder.h")
}

/// Where cargo put the library: beside this program, or one folder up.
fn library() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let folders = here.ancestors().skip(1).take(2);
    let mut libraries = folders.map(|folder| folder.join("liblarder_c.so"));
    libraries.find(|library| library.is_file()).expect("cargo built it for this test")
}

fn compile(to: &Path) {
    let library = library();
    let library_folder = library.parent().unwrap();
    let built = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
        .arg("-I")
        .arg(folder().join("../include"))
        .arg(folder().join("tests/program.c"))
        .arg("-L")
        .arg(library_folder)
        .arg(format!("-Wl,-rpath,{}", library_folder.display()))
        .args(["-llarder_c", "-o"])
        .arg(to)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
}

#[test]
fn a_program_in_c_finds_everything_as_the_header_says() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    compile(&program);
    let socket = directory.path().join("node/socket");
    let (shards, memory_bytes, uds) = (2, 64 << 20, Some(socket.clone()));
    let node = Node::start(Config { shards, memory_bytes, uds, ..Config::default() }).unwrap();
    let ran = Command::new(&program)
        .arg(node.address().to_string())
        .arg(format!("unix:{}", socket.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{}: {said}", ran.status);
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "all as the header says\n");
}

#[test]
fn a_compiler_of_cpp_takes_the_header() {
    let taken = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()))
        .args(["-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"])
        .args(["-x", "c++"])
        .arg(header())
        .output()
        .unwrap();
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
}

#[test]
fn numbers_of_the_header_are_the_clients() {
    let header = std::fs::read_to_string(header()).unwrap();
    let told: Vec<(&str, i32)> = header
        .lines()
        .filter_map(|line| line.trim().strip_prefix("LARDER_")?.split_once(" = "))
        .filter_map(|(name, rest)| {
            let end = rest.find(|c: char| c != '-' && !c.is_ascii_digit());
            Some((name, rest[..end.unwrap_or(rest.len())].parse().ok()?))
        })
        .collect();
    assert_eq!(told, ALL);
    let has = |limit: &str, is: usize| header.contains(&format!("#define {limit} {is}\n"));
    assert!(has("LARDER_PIECES_MAX", PIECES_MAX));
    let key_bytes_max = (1..).take_while(|&bytes| Key::new(&vec![0; bytes]).is_ok()).last();
    assert!(has("LARDER_KEY_BYTES_MAX", key_bytes_max.unwrap()));
}

#[test]
fn every_function_of_the_header_is_in_the_library_and_the_other_way_round() {
    let header = std::fs::read_to_string(header()).unwrap();
    let mut told: Vec<&str> = header
        .split(|c: char| !c.is_alphanumeric() && c != '_' && c != '(')
        .filter_map(|word| word.split_once('(').map(|(name, _)| name))
        .filter(|name| name.starts_with("larder_"))
        .collect();
    let mut made = Vec::new();
    let mut sources = String::new();
    for file in std::fs::read_dir(folder().join("src")).unwrap() {
        sources += &std::fs::read_to_string(file.unwrap().path()).unwrap();
    }
    for (_, after) in
        sources.match_indices("extern \"C\" fn ").map(|(at, m)| sources.split_at(at + m.len()))
    {
        made.push(after.split('(').next().unwrap());
    }
    for names in [&mut told, &mut made] {
        names.sort_unstable();
        names.dedup();
    }
    assert_eq!(told, made);
}
