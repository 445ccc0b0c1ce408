use std::ffi::OsString;

use super::*;
use crate::access::testing::{SECRET, access};
use crate::cli::{Command, parse};
use crate::config::input::ConfigExit;
use crate::domain::access::Caller;

fn parsed(args: &[&str], secret: &str) -> Result<TokenArgs, ConfigExit> {
    let args = ["sports-bet", "token"].iter().chain(args);
    let environment = |name: &str| (name == "AUTH_JWT_SECRET").then(|| OsString::from(secret));
    let (command, input) = parse(args.map(OsString::from), &environment)?;
    let Command::Token(args) = command else {
        panic!("{command:?}")
    };
    args.check(&input)
        .map_err(|wrong| ConfigExit::Wrong(vec![wrong]))?;
    Ok(*args)
}

fn printed(args: &TokenArgs) -> Result<String, TokenError> {
    let mut out = Vec::new();
    run(args, &mut out)?;
    Ok(String::from_utf8(out).unwrap().trim_end().to_owned())
}

#[test]
fn printed_token_is_accepted() {
    let args = [
        "--user",
        "u1",
        "--scope",
        "bets:read,bets:write",
        "--scope",
        "wallet:read",
    ];
    let token = printed(&parsed(&args, SECRET).unwrap()).unwrap();
    let Ok(Caller::User { id, scopes, .. }) = access().authenticate(Some(&token)) else {
        panic!("{token}")
    };
    assert_eq!(
        (id.as_str(), scopes.to_string().as_str()),
        ("u1", "wallet:read bets:read bets:write")
    );
}

#[test]
fn private_key_file_signs_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    let file = path.to_str().unwrap();
    let args = ["--user", "u1", "--key", file, "--kid", "k1"];
    let args = parsed(&args, "").unwrap();
    let failed = printed(&args).unwrap_err();
    assert!(failed.to_string().starts_with(file), "{failed}");
    assert_eq!(failed.exit_code(), exit::FAILED);
    for (algorithm, name) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, "ES256"),
        (&rcgen::PKCS_ED25519, "EdDSA"),
    ] {
        let pem = rcgen::KeyPair::generate_for(algorithm)
            .unwrap()
            .serialize_pem();
        std::fs::write(&path, pem).unwrap();
        let header = jsonwebtoken::decode_header(printed(&args).unwrap()).unwrap();
        assert_eq!(format!("{:?}", header.alg), name);
        assert_eq!(header.kid.as_deref(), Some("k1"));
    }
    std::fs::write(&path, include_str!("../../../tests/data/access/rsa.pem")).unwrap();
    let failed = printed(&args).unwrap_err().to_string();
    assert!(
        failed.contains("its kind or curve is not supported"),
        "{failed}"
    );
}

#[test]
fn wrong_arguments_are_named() {
    let wrong = |args: &[&str], secret| parsed(args, secret).unwrap_err().to_string();
    let missing = wrong(&["--user", "u1"], "");
    assert!(
        missing.contains(
            "AUTH_JWT_SECRET: got \"\", want a secret of at least 32 bytes, or --key FILE"
        ),
        "{missing}"
    );
    let short = wrong(&["--user", "u1"], "Secret");
    assert!(
        short.contains("AUTH_JWT_SECRET: got \"***\"") && !short.contains("Secret"),
        "{short}"
    );
    let scope = wrong(&["--user", "u1", "--scope", "bets"], SECRET);
    assert!(
        scope.contains("got \"bets\", want one of odds:read, wallet:read"),
        "{scope}"
    );
    assert!(wrong(&["--scope", "bets:read"], SECRET).contains("--user <USER>"));
}
