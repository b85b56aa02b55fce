//! Who may do what: roles, and the tokens that carry them.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use larder_jobs::Reason;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::config::TokenConfig;
use crate::error::{Error, Result};
use crate::secret;

/// What somebody may do; each may do what the one before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look, and ask what would be.
    Read,
    /// Ask for jobs, cancel them, keep models.
    Enqueue,
    /// Everything.
    Admin,
}

impl Role {
    /// The word, as in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Enqueue => "enqueue",
            Role::Admin => "admin",
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The token's name, or `socket` or `loopback` for who needs none.
    pub(super) name: Arc<str>,
    pub(super) role: Role,
}

impl Caller {
    pub(super) fn admin(name: &str) -> Self {
        Self { name: name.into(), role: Role::Admin }
    }
}

/// A token as it is kept: its digest, so that a comparison takes the same time whatever is presented, and no memory
/// holds the token for longer than a request.
#[derive(Clone)]
struct Known {
    digest: [u8; 32],
    caller: Caller,
}

/// The tokens that are good now.
#[derive(Clone, Default)]
pub(super) struct Access {
    known: Arc<RwLock<Arc<[Known]>>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("tokens", &self.all().len()).finish()
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

impl Access {
    /// Reads the files.
    ///
    /// # Errors
    /// As [`secret::read`]; `invalid_request` if two entries have the same token.
    pub(super) fn open(tokens: &[TokenConfig]) -> Result<Self> {
        let access = Self::default();
        access.replace(tokens)?;
        Ok(access)
    }

    /// Reads the files again; if one is of no use, what was good before stays good.
    ///
    /// # Errors
    /// As [`Access::open`].
    pub(super) fn replace(&self, tokens: &[TokenConfig]) -> Result<()> {
        let mut known: Vec<Known> = Vec::new();
        for TokenConfig { name, role, file } in tokens {
            let caller = Caller { name: name.as_str().into(), role: *role };
            for secret in secret::read(Path::new(file), "api.tokens")? {
                let digest = digest(secret.reveal());
                if let Some(twin) =
                    known.iter().find(|other| other.digest == digest && other.caller != caller)
                {
                    return Err(Error::new(
                        Reason::InvalidRequest,
                        format!("api.tokens: {} and {name} have the same token", twin.caller.name),
                        "give each its own, so that the audit log knows who it was",
                    ));
                }
                known.push(Known { digest, caller: caller.clone() });
            }
        }
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known.into();
        Ok(())
    }

    fn all(&self) -> Arc<[Known]> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there are no tokens.
    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// Whose token it is. Every known token is compared, and each in constant time.
    pub(super) fn whose(&self, token: &str) -> Option<Caller> {
        let presented = digest(token);
        let mut found = None;
        for known in self.all().iter() {
            if bool::from(known.digest.ct_eq(&presented)) {
                found = Some(known.caller.clone());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_apart_and_rotated() {
        let dir = tempfile::tempdir().expect("temp dir");
        let entry = |name: &str, role, text: &str| {
            let file = dir.path().join(name);
            std::fs::write(&file, text).expect("written");
            TokenConfig { name: name.into(), role, file: file.display().to_string() }
        };
        let tokens = [
            entry("scraper", Role::Read, "read-read-read-read"),
            entry("ops", Role::Admin, "old-old-old-old-old"),
        ];
        let access = Access::open(&tokens).expect("reads");
        let role = |token: &str| access.whose(token).map(|caller| (caller.name.to_string(), caller.role));
        assert_eq!(role("read-read-read-read"), Some(("scraper".into(), Role::Read)));
        assert_eq!(role("old-old-old-old-old"), Some(("ops".into(), Role::Admin)));
        for wrong in ["", "old-old-old-old-ol", "old-old-old-old-oldx", "OLD-OLD-OLD-OLD-OLD"] {
            assert_eq!(role(wrong), None, "{wrong}");
        }
        entry("ops", Role::Admin, "new-new-new-new-new\nold-old-old-old-old\n");
        access.replace(&tokens).expect("reads");
        assert!(role("new-new-new-new-new").is_some() && role("old-old-old-old-old").is_some());
        entry("ops", Role::Admin, "new-new-new-new-new");
        access.replace(&tokens).expect("reads");
        assert!(role("new-new-new-new-new").is_some() && role("old-old-old-old-old").is_none());
        entry("ops", Role::Admin, "read-read-read-read");
        let twins = access.replace(&tokens).expect_err("refused");
        assert!(twins.message().contains("scraper and ops") && !twins.message().contains("read-read"));
        assert!(role("new-new-new-new-new").is_some(), "a bad file takes nobody's access");
        assert!(!format!("{access:?}").contains("new-new"));
    }

    #[test]
    fn roles_grow() {
        assert!(Role::Read < Role::Enqueue && Role::Enqueue < Role::Admin);
    }
}
