//! The generated code is that of the .proto files.

use std::path::{Path, PathBuf};

use prost::Message;
use tonic_prost_build::Builder;

/// The files, in the folder `proto`.
const FILES: [&str; 4] = ["types", "odds", "wallet", "bets"];
/// The name of the package, and of its generated file.
const PACKAGE: &str = "sports_bet.v1";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What is generated, and where it is committed.
fn generated() -> Vec<(PathBuf, Vec<u8>)> {
    let proto = root().join("proto");
    let files = FILES.map(|file| format!("sports_bet/v1/{file}.proto"));
    let mut compiler = protox::Compiler::new([&proto]).unwrap();
    compiler.include_imports(true).open_files(&files).unwrap();
    let descriptors = compiler.file_descriptor_set();
    compiler.include_source_info(true);
    let documented = compiler.file_descriptor_set();
    let code = |builder: Builder| {
        let folder = tempfile::tempdir().unwrap();
        builder
            .build_transport(false)
            .out_dir(&folder)
            .compile_fds(documented.clone())
            .unwrap();
        std::fs::read(folder.path().join(format!("{PACKAGE}.rs"))).unwrap()
    };
    // Encoded once for all streams.
    let response = ".sports_bet.v1.WatchOddsResponse";
    let server = tonic_prost_build::configure()
        .build_client(false)
        .extern_path(response, "crate::grpc::encoded::EncodedResponse");
    let client = tonic_prost_build::configure().build_server(false);
    [
        ("src/grpc/generated", "rs", code(server)),
        ("src/grpc/generated", "bin", descriptors.encode_to_vec()),
        ("tests/support/generated", "rs", code(client)),
    ]
    .map(|(folder, extension, bytes)| {
        let file = root().join(folder).join(format!("{PACKAGE}.{extension}"));
        (file, bytes)
    })
    .into()
}

/// `make proto` writes the files instead.
#[test]
fn generated_code_matches_proto_files() {
    let writes = std::env::var_os("WRITE_GENERATED").is_some();
    for (file, bytes) in generated() {
        if writes {
            std::fs::write(&file, &bytes).unwrap();
        }
        let committed = std::fs::read(&file).unwrap_or_default();
        assert!(
            committed == bytes,
            "{} is not that of the .proto files; run `make proto`",
            file.display()
        );
    }
}
