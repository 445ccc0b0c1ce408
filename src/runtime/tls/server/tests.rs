use pretty_assertions::assert_eq;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rstest::rstest;
use tempfile::TempDir;

use super::*;

/// Certificate and key as PEM; the certificate expires on the first of January of `year`.
fn pair(year: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
    parameters.not_after = date_time_ymd(year, 1, 1);
    let certificate = parameters.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

struct Folder(TempDir);

impl Folder {
    fn with((certificate, key): &(String, String)) -> Folder {
        let folder = Folder(TempDir::new().unwrap());
        folder.write("cert.pem", certificate);
        folder.write("key.pem", key);
        folder
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn files(&self) -> CertificateFiles {
        CertificateFiles {
            certificate: self.0.path().join("cert.pem"),
            key: self.0.path().join("key.pem"),
            client_ca: None,
        }
    }
}

fn year_of(certificate: &ServerCertificate) -> String {
    let end = Duration::from_secs(certificate.not_after().unwrap());
    let date = humantime::format_rfc3339_seconds(std::time::SystemTime::UNIX_EPOCH + end);
    date.to_string()[..4].to_owned()
}

#[test]
fn changed_files_replace_the_certificate() {
    let folder = Folder::with(&pair(2050));
    let certificate = ServerCertificate::load(folder.files()).unwrap();
    let before = certificate.config();
    assert_eq!(before.alpn_protocols, [b"http/1.1".to_vec()]);
    assert_eq!(year_of(&certificate), "2050");
    assert_eq!(certificate.reload(), Ok(false));
    assert!(Arc::ptr_eq(&before, &certificate.config()));
    let (next, key) = pair(2051);
    folder.write("cert.pem", &next);
    folder.write("key.pem", &key);
    assert_eq!(certificate.reload(), Ok(true));
    assert_eq!(year_of(&certificate), "2051");
    assert!(!Arc::ptr_eq(&before, &certificate.config()));
}

/// The two files are not replaced at the same moment.
#[test]
fn certificate_waits_for_its_key() {
    let folder = Folder::with(&pair(2050));
    let certificate = ServerCertificate::load(folder.files()).unwrap();
    let (next, key) = pair(2051);
    folder.write("cert.pem", &next);
    let error = certificate.reload().unwrap_err();
    assert_eq!(
        (error.variable, error.cause.as_str()),
        (KEY, "the key is not that of the certificate")
    );
    assert_eq!(year_of(&certificate), "2050");
    folder.write("key.pem", &key);
    assert_eq!(certificate.reload(), Ok(true));
    assert_eq!(year_of(&certificate), "2051");
}

#[rstest]
#[case::no_certificate("cert.pem", "hello", CERTIFICATE)]
#[case::half_a_certificate("cert.pem", "-----BEGIN CERTIFICATE-----\nMIIB", CERTIFICATE)]
#[case::no_der(
    "cert.pem",
    "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
    CERTIFICATE
)]
#[case::empty_key("key.pem", "", KEY)]
#[case::no_key(
    "key.pem",
    "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n",
    KEY
)]
fn broken_files_are_named_and_keep_the_old(
    #[case] file: &str,
    #[case] text: &str,
    #[case] variable: &str,
) {
    let good = pair(2050);
    let folder = Folder::with(&good);
    let certificate = ServerCertificate::load(folder.files()).unwrap();
    folder.write(file, text);
    let error = certificate.reload().unwrap_err();
    assert_eq!(error.variable, variable);
    let shown = error.to_string();
    assert!(
        shown.contains(file) && shown.contains("expected a PEM file"),
        "{shown}"
    );
    assert!(ServerCertificate::load(folder.files()).is_err());
    assert_eq!(year_of(&certificate), "2050");
    std::fs::remove_file(folder.0.path().join(file)).unwrap();
    assert_eq!(certificate.reload().unwrap_err().variable, variable);
    // Resolved by the files in use: nothing is new.
    folder.write("cert.pem", &good.0);
    folder.write("key.pem", &good.1);
    assert_eq!(certificate.reload(), Ok(false));
}

#[test]
fn first_expiry_of_the_chain_counts() {
    let (own, key) = pair(2050);
    let (issuer, _) = pair(2040);
    let folder = Folder::with(&(own + &issuer, key));
    let certificate = ServerCertificate::load(folder.files()).unwrap();
    assert_eq!(year_of(&certificate), "2040");
}

#[test]
fn unusable_client_authorities_are_named() {
    let folder = Folder::with(&pair(2050));
    let mut files = folder.files();
    files.client_ca = Some(folder.0.path().join("ca.pem"));
    let error = |files: &CertificateFiles| ServerCertificate::load(files.clone()).err().unwrap();
    assert_eq!(error(&files).variable, CLIENT_CA);
    folder.write("ca.pem", "hello");
    assert_eq!(error(&files).cause, "it contains no certificate");
    folder.write("ca.pem", &pair(2050).0);
    assert!(ServerCertificate::load(files).is_ok());
}

proptest::proptest! {
    #[test]
    fn foreign_files_never_panic(certificate: Vec<u8>, key: Vec<u8>, is_pem: bool) {
        use base64::Engine;
        let text = |kind: &str, bytes: Vec<u8>| match is_pem {
            false => bytes,
            true => {
                let body = base64::engine::general_purpose::STANDARD.encode(bytes);
                format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n").into_bytes()
            }
        };
        let files = CertificateFiles { certificate: "c".into(), key: "k".into(), client_ca: None };
        let contents = Contents {
            certificate: text("CERTIFICATE", certificate),
            key: text("PRIVATE KEY", key),
            client_ca: None,
        };
        proptest::prop_assert!(files.configure(&contents).is_err());
    }
}
