//! Whose results are paid.

use std::collections::BTreeSet;
use std::fmt;

use crate::domain::ids::Source;

/// How the source of an operator's record starts; the operator's name follows.
pub const OPERATOR_PREFIX: &str = "operator:";

/// Whether a record of this source was written by an operator.
pub fn is_operator(source: &Source) -> bool {
    source.as_str().starts_with(OPERATOR_PREFIX)
}

impl fmt::Display for TrustedSources {
    /// The names, with commas.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(Source::as_str).collect();
        out.write_str(&names.join(","))
    }
}

/// The sources whose results are paid. Those of others are stored only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedSources(BTreeSet<Source>);

impl TrustedSources {
    /// Trusts these sources, and operators.
    pub fn new(sources: impl IntoIterator<Item = Source>) -> TrustedSources {
        TrustedSources(sources.into_iter().collect())
    }

    /// Whether results of this source are paid.
    pub fn trusts(&self, source: &Source) -> bool {
        is_operator(source) || self.0.contains(source)
    }
}
