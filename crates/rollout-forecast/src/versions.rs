//! The versions of a set and of its policy in a plan (rollouts.md R20), as one word: `1234` is the resourceVersion of the
//! set, and `1234:5e6f7a8b.3` also names the policy by the beginning of its UID, and its generation.

use std::fmt;
use std::str::FromStr;

use json_tree::Value;
use resource_kinds::stateful_set_policy::StatefulSetPolicy;

/// The versions of a set and of its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The resourceVersion of the set; `None` if it does not exist.
    pub set: Option<String>,
    /// The policy that is in force.
    pub policy: Option<PolicyVersion>,
}

/// A version of a policy. Its resourceVersion would not do, because its status counts other sets, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyVersion {
    /// The beginning of the UID.
    pub uid: String,
    pub generation: i64,
}

/// The version of a set that does not exist.
const NEW: &str = "new";

/// The length of the beginning of a UID.
const UID_LENGTH: usize = 8;

impl Versions {
    /// The versions of a set, as the server sent it, and of a policy.
    pub fn of(set: Option<&Value>, policy: Option<&StatefulSetPolicy>) -> Self {
        let version = set.and_then(|set| set["metadata"]["resourceVersion"].as_str());
        Self {
            set: version.map(str::to_owned),
            policy: policy.map(|policy| PolicyVersion {
                uid: policy
                    .metadata
                    .uid
                    .iter()
                    .flat_map(|uid| uid.chars())
                    .take(UID_LENGTH)
                    .collect(),
                generation: policy.metadata.generation.unwrap_or_default(),
            }),
        }
    }

    /// The first difference from the versions that the user has seen.
    pub fn difference(&self, seen: &Self) -> Option<String> {
        let name = |version: &Option<String>| match version {
            Some(version) => format!("version {version}"),
            None => "absent".to_owned(),
        };
        if self.set != seen.set {
            let (now, then) = (name(&self.set), name(&seen.set));
            return Some(format!("the StatefulSet is {now}, and was {then}"));
        }
        let name = |policy: &Option<PolicyVersion>| match policy {
            Some(policy) => policy.to_string(),
            None => "absent".to_owned(),
        };
        (self.policy != seen.policy).then(|| {
            let (now, then) = (name(&self.policy), name(&seen.policy));
            format!("its StatefulSetPolicy is {now}, and was {then}")
        })
    }
}

impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.uid, self.generation)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.set.as_deref().unwrap_or(NEW))?;
        match &self.policy {
            Some(policy) => write!(f, ":{policy}"),
            None => Ok(()),
        }
    }
}

/// A word that names no versions.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} are no versions of a plan: they are in its last line, for instance 1234 or 1234:5e6f7a8b.3"
)]
pub struct NoVersions(String);

impl FromStr for Versions {
    type Err = NoVersions;

    fn from_str(word: &str) -> Result<Self, NoVersions> {
        let error = || NoVersions(word.to_owned());
        let (set, policy) = match word.split_once(':') {
            Some((set, policy)) => (set, Some(policy)),
            None => (word, None),
        };
        let is_version = !set.is_empty() && set.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_version {
            return Err(error());
        }
        let policy = policy.map(|policy| {
            let (uid, generation) = policy.split_once('.')?;
            Some(PolicyVersion {
                uid: uid.to_owned(),
                generation: generation.parse().ok()?,
            })
        });
        let policy = match policy {
            Some(None) => return Err(error()),
            Some(policy) => policy,
            None => None,
        };
        Ok(Self {
            set: (set != NEW).then(|| set.to_owned()),
            policy,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// rollouts.md R20.
    #[test]
    fn versions_are_one_word() {
        for word in ["1234", "new", "1234:5e6f7a8b.3", "new:5e6f7a8b.0"] {
            let versions: Versions = word.parse().unwrap();
            assert_eq!(versions.to_string(), word);
        }
        for word in ["", ":", "12:", "12:abc", "12:abc.x", "a b"] {
            assert!(word.parse::<Versions>().is_err(), "{word}");
        }
    }

    /// rollouts.md R20: a policy that comes, goes or changes is a difference.
    #[test]
    fn each_part_counts() {
        let versions = |word: &str| -> Versions { word.parse().unwrap() };
        let seen = versions("7:aa.1");
        assert_eq!(versions("7:aa.1").difference(&seen), None);
        for (word, text) in [
            ("8:aa.1", "the StatefulSet is version 8, and was version 7"),
            ("new:aa.1", "the StatefulSet is absent, and was version 7"),
            ("7:aa.2", "its StatefulSetPolicy is aa.2, and was aa.1"),
            ("7:bb.1", "its StatefulSetPolicy is bb.1, and was aa.1"),
            ("7", "its StatefulSetPolicy is absent, and was aa.1"),
        ] {
            assert_eq!(versions(word).difference(&seen).as_deref(), Some(text));
        }
    }
}
