//! The text of an API key: `sbk_`, 43 base62 digits of 256 random bits, and 6 of their checksum. A
//! typing error and a key in a log are recognised without the database. Only the hash is stored; a
//! random key needs no slow one.

use std::fmt;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::SecretString;

/// How every API key begins. Tokens never do.
pub(crate) const MARK: &str = "sbk_";
/// The digits of the random part.
const RANDOM_DIGITS: usize = 43;
/// The digits of the checksum.
const CHECKSUM_DIGITS: usize = 6;
/// How much of a key is stored for display.
const SHOWN: usize = MARK.len() + 8;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyHash(pub(crate) [u8; 32]);

impl KeyHash {
    /// The hash of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> KeyHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
        KeyHash(hash)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("KeyHash")
    }
}

/// A new key.
#[derive(Debug)]
pub(crate) struct NewKey {
    /// The whole key, shown once.
    pub secret: SecretString,
    /// What is stored.
    pub hash: KeyHash,
    /// Its beginning, for display.
    pub prefix: String,
}

impl NewKey {
    /// Generates a key. Fails if the system has no random numbers.
    pub(crate) fn generate() -> Result<NewKey, ring::error::Unspecified> {
        let mut random = [0; 32];
        SystemRandom::new().fill(&mut random)?;
        let text = key_of(&random);
        Ok(NewKey {
            hash: KeyHash::of(text.as_bytes()),
            prefix: text.chars().take(SHOWN).collect(),
            secret: SecretString::from(text),
        })
    }
}

/// The hash of a key; `None` if the checksum or the form is wrong.
pub(crate) fn hash_of(key: &str) -> Option<KeyHash> {
    let digits = key.strip_prefix(MARK)?;
    let is_long_enough = digits.len() == RANDOM_DIGITS + CHECKSUM_DIGITS;
    if !is_long_enough || !digits.bytes().all(|digit| digit.is_ascii_alphanumeric()) {
        return None;
    }
    let (unchecked, sum) = key.split_at_checked(key.len() - CHECKSUM_DIGITS)?;
    (checksum(unchecked) == sum).then(|| KeyHash::of(key.as_bytes()))
}

fn key_of(random: &[u8; 32]) -> String {
    let unchecked = format!("{MARK}{}", base62(random, RANDOM_DIGITS));
    let sum = checksum(&unchecked);
    unchecked + &sum
}

fn checksum(unchecked: &str) -> String {
    let sum = crc32fast::hash(unchecked.as_bytes());
    base62(&sum.to_be_bytes(), CHECKSUM_DIGITS)
}

/// A big-endian number in base 62, with leading zeros.
fn base62(number: &[u8], digits: usize) -> String {
    let mut number = number.to_vec();
    let mut text = vec!['0'; digits];
    for digit in text.iter_mut().rev() {
        let mut rest = 0_u32;
        for byte in &mut number {
            let value = rest << 8 | u32::from(*byte);
            *byte = (value / 62) as u8;
            rest = value % 62;
        }
        *digit = char::from(ALPHABET[rest as usize]);
    }
    text.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn generated_key_has_the_documented_form() {
        let key = NewKey::generate().unwrap();
        let text = key.secret.expose_secret();
        assert_eq!(text.len(), 53);
        assert!(
            text.starts_with(&key.prefix) && key.prefix.len() == 12,
            "{key:?}"
        );
        assert_eq!(hash_of(text), Some(key.hash));
        assert!(!format!("{key:?}").contains(text), "{key:?}");
        assert_ne!(NewKey::generate().unwrap().hash, key.hash);
    }

    /// Stored hashes stay valid only while the text of a key does not change.
    #[test]
    fn text_of_key_is_stable() {
        insta::assert_snapshot!(key_of(&[0; 32]), @"sbk_00000000000000000000000000000000000000000003O5alj");
        insta::assert_snapshot!(key_of(&[255; 32]), @"sbk_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp10L2Tg7");
    }

    #[test]
    fn other_forms_are_refused() {
        let key = key_of(&[7; 32]);
        for wrong in [
            "",
            "sbk_",
            &key[1..],
            &key[..52],
            &format!("{key}0"),
            &key.replacen("sbk", "sbx", 1),
            &format!("{}é", &key[..51]),
        ] {
            assert_eq!(hash_of(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_typing_error_is_noticed(random: [u8; 32], place in 4_usize..53, digit in 0_usize..62) {
            let key = key_of(&random);
            let mut changed = key.clone().into_bytes();
            changed[place] = ALPHABET[digit];
            let changed = String::from_utf8(changed).unwrap();
            prop_assert_eq!(hash_of(&changed).is_some(), changed == key);
        }

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,60}") {
            prop_assert_eq!(hash_of(&text), None);
            prop_assert_eq!(hash_of(&format!("{MARK}{text}")), None);
        }
    }
}
