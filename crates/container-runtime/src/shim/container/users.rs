//! The user of a container, looked up in `/etc/passwd` and `/etc/group` of its image; pure.

use crate::spec::{ID_MAX, ResolvedUser, UserSpec};

/// Maximum number of groups of a process: the kernel's `NGROUPS_MAX`.
const GROUPS_MAX: usize = 65536;

/// The reason why a container has no user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UserError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UserNotFound(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    GroupNotFound(String),
    #[error("the user has {0} groups, and the kernel gives a process {max} at most", max = GROUPS_MAX)]
    TooManyGroups(usize),
    #[error("user or group {0}: uids and gids must be between 0 and {max}", max = ID_MAX)]
    InvalidId(u32),
}

/// A user and its home directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserAccount {
    pub user: ResolvedUser,
    pub home: String,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Resolves `spec` with the contents of both files.
///
/// # Errors
/// An unknown name, or an invalid id.
pub(crate) fn resolve(
    spec: &UserSpec,
    passwd: &str,
    group: &str,
) -> Result<UserAccount, UserError> {
    let (user_name, group_name) = match spec.name.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec.name.as_str(), None),
    };
    let entry = match (spec.uid, user_name) {
        (Some(uid), _) => by_uid(passwd, uid),
        (None, "") => by_uid(passwd, 0),
        (None, name) => match name.parse::<u32>() {
            Ok(uid) => by_uid(passwd, uid),
            Err(_) => Some(
                entries(passwd)
                    .find(|entry| entry.name == name)
                    .ok_or_else(|| UserError::UserNotFound(name.to_owned()))?,
            ),
        },
    };
    let uid = match (spec.uid, &entry) {
        (Some(uid), _) => uid,
        (None, Some(entry)) => entry.uid,
        (None, None) => user_name.parse().unwrap_or(0),
    };
    // The image's group belongs to the image's user, so another user does not get it.
    let group_name = group_name.filter(|name| spec.uid.is_none() && !name.is_empty());
    let gid = match (spec.gid, group_name) {
        (Some(gid), _) => gid,
        (None, Some(name)) => gid_of(group, name)?,
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut groups = vec![gid];
    groups.extend(&spec.supplementary_groups);
    if !spec.strict_groups
        && let Some(entry) = &entry
    {
        groups.extend(memberships(group, entry.name));
    }
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > GROUPS_MAX {
        cov_mark::hit!(findings_2_i1);
        return Err(UserError::TooManyGroups(groups.len()));
    }
    check_ids(std::iter::once(&uid).chain([&gid]).chain(&groups))?;
    let home = entry
        .map(|entry| entry.home)
        .filter(|home| !home.is_empty())
        .unwrap_or("/");
    Ok(UserAccount {
        user: ResolvedUser { uid, gid, groups },
        home: home.to_owned(),
    })
}

/// Checks that all ids are valid for a container.
pub(crate) fn check_ids<'a>(ids: impl IntoIterator<Item = &'a u32>) -> Result<(), UserError> {
    match ids.into_iter().find(|id| **id > ID_MAX) {
        None => Ok(()),
        Some(id) => {
            cov_mark::hit!(findings_s1);
            Err(UserError::InvalidId(*id))
        }
    }
}

fn entries(passwd: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(PasswdEntry {
            name,
            uid,
            gid,
            home,
        })
    })
}

fn by_uid(passwd: &str, uid: u32) -> Option<PasswdEntry<'_>> {
    entries(passwd).find(|entry| entry.uid == uid)
}

fn gid_of(group: &str, name: &str) -> Result<u32, UserError> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    let mut lines = group.lines().map(|line| line.split(':'));
    lines
        .find_map(|mut fields| {
            (fields.next()? == name)
                .then(|| fields.nth(1)?.parse().ok())
                .flatten()
        })
        .ok_or_else(|| UserError::GroupNotFound(name.to_owned()))
}

fn memberships<'a>(group: &'a str, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    group.lines().filter_map(move |line| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse().ok()?;
        fields
            .next()?
            .split(',')
            .any(|member| member == user)
            .then_some(gid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnginx:x:101:102::/var/cache:/bin/false\n";
    const GROUP: &str = "root:x:0:\nnginx:x:102:\nlog:x:4:syslog,nginx\n";

    fn resolved(spec: UserSpec) -> (u32, u32, Vec<u32>, String) {
        let account = resolve(&spec, PASSWD, GROUP).unwrap();
        (
            account.user.uid,
            account.user.gid,
            account.user.groups,
            account.home,
        )
    }

    fn named(name: &str) -> UserSpec {
        UserSpec {
            name: name.into(),
            ..UserSpec::default()
        }
    }

    #[test]
    fn nothing_said_means_root() {
        assert_eq!(resolved(named("")), (0, 0, vec![0], "/root".into()));
    }

    #[test]
    fn a_name_brings_its_group_its_memberships_and_its_home() {
        assert_eq!(
            resolved(named("nginx")),
            (101, 102, vec![4, 102], "/var/cache".into())
        );
        let strict = UserSpec {
            strict_groups: true,
            ..named("nginx")
        };
        assert_eq!(resolved(strict).2, [102]);
    }

    #[test]
    fn numbers_need_no_entry() {
        assert_eq!(resolved(named("1234")), (1234, 0, vec![0], "/".into()));
        assert_eq!(resolved(named("1234:log")), (1234, 4, vec![4], "/".into()));
    }

    #[test]
    fn the_pod_wins_over_the_image() {
        let spec = UserSpec {
            uid: Some(7),
            supplementary_groups: vec![2000],
            ..named("nginx:log")
        };
        assert_eq!(resolved(spec), (7, 0, vec![0, 2000], "/".into()));
        let spec = UserSpec {
            uid: Some(101),
            gid: Some(9),
            ..named("")
        };
        assert_eq!(resolved(spec), (101, 9, vec![4, 9], "/var/cache".into()));
    }

    /// findings S1: the kernel treats the id 4294967295 as "unchanged", and the shim is root.
    #[test]
    fn no_way_leads_to_an_id_that_means_none() {
        cov_mark::check!(findings_s1);
        for id in [2_147_483_648, u32::MAX] {
            let passwd = format!("evil:x:{id}:5::/:\nfellow:x:5:{id}::/:\nmember:x:6:6::/:\n");
            let group = format!("evil:x:{id}:member\n");
            let mut of_the_pod = vec![UserSpec::default(); 3];
            of_the_pod[0].uid = Some(id);
            of_the_pod[1].gid = Some(id);
            of_the_pod[2].supplementary_groups = vec![5, id];
            let of_the_image = [
                format!("{id}"),
                format!("5:{id}"),
                "evil".into(),
                "fellow".into(),
                "member".into(),
                "root:evil".into(),
            ];
            let of_the_image = of_the_image.map(|name| UserSpec {
                name,
                ..UserSpec::default()
            });
            for spec in of_the_pod.into_iter().chain(of_the_image) {
                let passwd = format!("{PASSWD}{passwd}");
                let refused = resolve(&spec, &passwd, &group).unwrap_err().to_string();
                assert!(refused.contains("between 0 and 2147483647"), "{refused}");
            }
        }
        let largest = resolved(named("2147483647:2147483647"));
        assert_eq!((largest.0, largest.1), (ID_MAX, ID_MAX));
    }

    /// findings-2 I1
    #[test]
    fn more_groups_than_the_kernel_has_are_refused() {
        cov_mark::check!(findings_2_i1);
        let with = |groups: u32| UserSpec {
            gid: Some(1),
            supplementary_groups: (1..=groups).collect(),
            ..UserSpec::default()
        };
        resolve(&with(65_536), "", "").unwrap();
        let refused = resolve(&with(65_537), "", "").unwrap_err().to_string();
        assert!(refused.contains("65537 groups"), "{refused}");
    }

    #[test]
    fn unknown_names_are_errors() {
        assert!(
            resolve(&named("bob"), PASSWD, GROUP)
                .unwrap_err()
                .to_string()
                .contains("user bob")
        );
        assert!(
            resolve(&named("nginx:x"), PASSWD, GROUP)
                .unwrap_err()
                .to_string()
                .contains("group x")
        );
        assert!(resolve(&named("bob"), "", "").is_err());
    }
}
