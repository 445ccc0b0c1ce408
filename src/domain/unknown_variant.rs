//! The error of reading an enum from its text form.

/// The text matches no variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is not a {of}")]
pub struct UnknownVariant {
    /// The kind of value that was expected.
    pub of: &'static str,
    /// The text, truncated.
    pub got: String,
}

impl UnknownVariant {
    /// An error about a text that is not a value of this kind.
    pub fn new(of: &'static str, text: &str) -> UnknownVariant {
        UnknownVariant {
            of,
            got: text.chars().take(40).collect(),
        }
    }
}
