//! Enums with a text form that is the same on the wire, in the database and in the log.

/// The text matches no variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is not a {of}")]
pub struct UnknownVariant {
    /// The kind of value that was expected.
    pub of: &'static str,
    /// The text, truncated.
    pub got: String,
}

/// Defines an enum that is read and written as the text of its variants.
macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident, $of:literal, { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// All variants, in the order of their life cycle.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The text on the wire and in the database.
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
