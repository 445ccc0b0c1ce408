//! Authentication: from a token or an API key to a caller.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::access::Caller;

/// Why a credential is not accepted. The text is for the caller, and names no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCredential(pub String);

/// Authenticates the callers of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Access {
    /// `None`: callers are not checked.
    rules: Option<Arc<AccessRules>>,
    /// The callers of [`Access::of_callers`], by token.
    callers: Arc<BTreeMap<String, Caller>>,
}

/// What the callers of a process are checked against.
#[derive(Debug)]
pub struct AccessRules {
    /// Whether anonymous callers may read odds.
    pub odds_public: bool,
}

impl Access {
    /// Callers are not checked.
    pub fn off() -> Access {
        Access {
            rules: None,
            callers: Arc::default(),
        }
    }

    /// Callers are checked against these rules.
    pub fn required(rules: AccessRules) -> Access {
        Access {
            rules: Some(Arc::new(rules)),
            callers: Arc::default(),
        }
    }

    /// Exactly these callers, by token: for tests of what a caller may do.
    #[doc(hidden)]
    pub fn of_callers(rules: AccessRules, callers: BTreeMap<String, Caller>) -> Access {
        Access {
            callers: Arc::new(callers),
            ..Access::required(rules)
        }
    }

    /// The caller with this token or API key; `None` is no credential. Does not wait for anything.
    pub fn authenticate(&self, credential: Option<&str>) -> Result<Caller, InvalidCredential> {
        match (&self.rules, credential) {
            (None, _) => Ok(Caller::Unchecked),
            (Some(_), None) => Ok(Caller::Anonymous),
            (Some(_), Some(token)) => self.callers.get(token).cloned().ok_or_else(|| {
                InvalidCredential("neither a token nor an API key of this deployment".to_owned())
            }),
        }
    }

    /// Whether anonymous callers may read odds.
    pub fn is_odds_public(&self) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.odds_public)
    }
}
