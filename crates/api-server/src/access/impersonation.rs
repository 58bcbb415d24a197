//! Impersonation: the `Impersonate-` headers (`kubectl --as`).

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};
use object_model::Status;

use crate::access::authorize::{Authorizer, authorize};
use crate::access::identity::service_account_groups;
use crate::http::query::decode;
use crate::http::request_info::RequestInfo;
use crate::http::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, UserInfo};

const PREFIX: &str = "impersonate-";
const EXTRA: &str = "impersonate-extra-";
const GROUP: &str = "authentication.k8s.io";

/// The requested user: the contents of the `Impersonate-` headers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Replaces the user by the user in the headers, if the request has such headers.
///
/// *Errors.* 403 if the real user may not impersonate; 400 for headers that contain groups or other attributes, but
/// no user.
pub(crate) fn impersonate(
    authorizer: &Authorizer,
    user: UserInfo,
    headers: &HeaderMap,
) -> Result<UserInfo, Status> {
    let Some(wanted) = wanted(headers)? else {
        return Ok(user);
    };
    for asked in asked(&wanted) {
        authorize(authorizer, &user, &asked)?;
    }
    Ok(become_of(wanted))
}

/// Removes the headers, so that the backend of a proxied request does not evaluate them again.
pub(crate) fn without_headers(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_ours(name))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether the request has impersonation headers.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    headers.keys().any(is_ours)
}

fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with(PREFIX)
}

fn wanted(headers: &HeaderMap) -> Result<Option<Wanted>, Status> {
    let mut wanted = Wanted::default();
    let mut given = false;
    for (name, value) in headers.iter().filter(|(name, _)| is_ours(name)) {
        given = true;
        let value = value
            .to_str()
            .map_err(|_| Status::bad_request(format!("header {name} is not text")))?
            .to_owned();
        match name.as_str() {
            "impersonate-user" => wanted.user = value,
            "impersonate-uid" => wanted.uid = value,
            "impersonate-group" => wanted.groups.push(value),
            other => {
                if let Some(key) = other.strip_prefix(EXTRA) {
                    let key = decode(key, false);
                    wanted.extra.entry(key).or_default().push(value);
                }
            }
        }
    }
    if given && wanted.user.is_empty() {
        let text = "requested impersonation without impersonating a user";
        return Err(Status::bad_request(text));
    }
    Ok(given.then_some(wanted))
}

/// The permissions that the impersonation needs, in upstream's order.
fn asked(wanted: &Wanted) -> Vec<RequestInfo> {
    let one = |group: &str, resource: &str, namespace: &str, name: &str| RequestInfo {
        is_resource: true,
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    };
    let mut all = vec![match account(&wanted.user) {
        Some((namespace, name)) => one("", "serviceaccounts", namespace, name),
        None => one("", "users", "", &wanted.user),
    }];
    all.extend(
        wanted
            .groups
            .iter()
            .map(|group| one("", "groups", "", group)),
    );
    for (key, values) in &wanted.extra {
        all.extend(values.iter().map(|value| RequestInfo {
            subresource: key.clone(),
            ..one(GROUP, "userextras", "", value)
        }));
    }
    if !wanted.uid.is_empty() {
        all.push(one(GROUP, "uids", "", &wanted.uid));
    }
    all
}

fn account(user: &str) -> Option<(&str, &str)> {
    let rest = user.strip_prefix("system:serviceaccount:")?;
    let (namespace, name) = rest.split_once(':')?;
    let fine = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    fine.then_some((namespace, name))
}

fn become_of(wanted: Wanted) -> UserInfo {
    let mut groups = wanted.groups;
    if let Some((namespace, _)) = account(&wanted.user)
        && groups.is_empty()
    {
        groups = service_account_groups(namespace);
    }
    let has = |groups: &[String], one: &str| groups.iter().any(|group| group == one);
    if wanted.user == ANONYMOUS {
        if !has(&groups, UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !has(&groups, AUTHENTICATED) && !has(&groups, UNAUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    UserInfo {
        name: wanted.user,
        uid: wanted.uid,
        groups,
        extra: wanted.extra,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = list.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, http::HeaderValue::from_static(value))
        });
        pairs.collect()
    }

    #[test]
    fn headers_name_user_groups_uid_and_extras() {
        assert_eq!(wanted(&headers(&[("accept", "*/*")])).unwrap(), None);
        let mut given = headers(&[
            ("impersonate-user", "ann"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-acme.com%2fproject", "x"),
        ]);
        for group in ["a", "b"] {
            given.append("impersonate-group", http::HeaderValue::from_static(group));
        }
        let found = wanted(&given).unwrap().unwrap();
        assert_eq!((found.user.as_str(), found.uid.as_str()), ("ann", "7"));
        assert_eq!(found.groups, ["a", "b"]);
        assert_eq!(found.extra["acme.com/project"], ["x"]);
        let asked: Vec<String> = asked(&found)
            .into_iter()
            .map(|a| format!("{}/{}/{}/{}", a.group, a.resource, a.subresource, a.name))
            .collect();
        assert_eq!(
            asked,
            [
                "/users//ann",
                "/groups//a",
                "/groups//b",
                "authentication.k8s.io/userextras/acme.com/project/x",
                "authentication.k8s.io/uids//7",
            ]
        );
        for alone in [
            "impersonate-uid",
            "impersonate-group",
            "impersonate-extra-a",
        ] {
            assert_eq!(wanted(&headers(&[(alone, "x")])).unwrap_err().code, 400);
        }
        without_headers(&mut given);
        assert!(given.is_empty());
    }

    #[test]
    fn groups_are_completed() {
        let user = |name: &str, groups: &[&str]| {
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            let wanted = Wanted {
                user: name.to_owned(),
                groups,
                ..Wanted::default()
            };
            become_of(wanted).groups
        };
        assert_eq!(user("ann", &[]), ["system:authenticated"]);
        assert_eq!(user("system:anonymous", &[]), ["system:unauthenticated"]);
        assert_eq!(
            user("system:serviceaccount:ns:sa", &[]),
            [
                "system:serviceaccounts",
                "system:serviceaccounts:ns",
                "system:authenticated"
            ]
        );
        assert_eq!(
            user("system:serviceaccount:ns:sa", &["g"]),
            ["g", "system:authenticated"]
        );
    }
}
