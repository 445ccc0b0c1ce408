//! Enums whose values are words: the same on the wire, in the database and in a log.

/// A text that is none of the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is not a {of}")]
pub struct UnknownVariant {
    /// What kind of word was wanted.
    pub of: &'static str,
    /// The text, cut.
    pub got: String,
}

/// Makes an enum, and reads and writes it as its words.
macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident, $of:literal, { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every one, in the order of a life.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The word on the wire and in the database.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::domain::string_enum::UnknownVariant;

            fn from_str(text: &str) -> Result<$name, $crate::domain::string_enum::UnknownVariant> {
                $name::ALL.iter().copied().find(|word| word.as_str() == text)
                    .ok_or_else(|| $crate::domain::string_enum::UnknownVariant { of: $of, got: text.chars().take(40).collect() })
            }
        }
    };
}
pub(crate) use string_enum;
