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
struct RequestedUser {
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
    let Some(requested) = requested_user(headers)? else {
        return Ok(user);
    };
    for permission in permissions(&requested) {
        authorize(authorizer, &user, &permission)?;
    }
    Ok(user_of(requested))
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
pub(crate) fn is_requested(headers: &HeaderMap) -> bool {
    headers.keys().any(is_ours)
}

fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with(PREFIX)
}

fn requested_user(headers: &HeaderMap) -> Result<Option<RequestedUser>, Status> {
    let mut requested = RequestedUser::default();
    let mut has_headers = false;
    for (name, value) in headers.iter().filter(|(name, _)| is_ours(name)) {
        has_headers = true;
        let value = value
            .to_str()
            .map_err(|_| Status::bad_request(format!("header {name} is not text")))?
            .to_owned();
        match name.as_str() {
            "impersonate-user" => requested.user = value,
            "impersonate-uid" => requested.uid = value,
            "impersonate-group" => requested.groups.push(value),
            other => {
                if let Some(key) = other.strip_prefix(EXTRA) {
                    let key = decode(key, false);
                    requested.extra.entry(key).or_default().push(value);
                }
            }
        }
    }
    if has_headers && requested.user.is_empty() {
        let text = "requested impersonation without impersonating a user";
        return Err(Status::bad_request(text));
    }
    Ok(has_headers.then_some(requested))
}

/// The permissions that the impersonation needs, in upstream's order.
fn permissions(requested: &RequestedUser) -> Vec<RequestInfo> {
    let one = |group: &str, resource: &str, namespace: &str, name: &str| RequestInfo {
        is_resource: true,
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    };
    let mut all = vec![match account(&requested.user) {
        Some((namespace, name)) => one("", "serviceaccounts", namespace, name),
        None => one("", "users", "", &requested.user),
    }];
    all.extend(
        requested
            .groups
            .iter()
            .map(|group| one("", "groups", "", group)),
    );
    for (key, values) in &requested.extra {
        all.extend(values.iter().map(|value| RequestInfo {
            subresource: key.clone(),
            ..one(GROUP, "userextras", "", value)
        }));
    }
    if !requested.uid.is_empty() {
        all.push(one(GROUP, "uids", "", &requested.uid));
    }
    all
}

fn account(user: &str) -> Option<(&str, &str)> {
    let rest = user.strip_prefix("system:serviceaccount:")?;
    let (namespace, name) = rest.split_once(':')?;
    let fine = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    fine.then_some((namespace, name))
}

fn user_of(requested: RequestedUser) -> UserInfo {
    let mut groups = requested.groups;
    if let Some((namespace, _)) = account(&requested.user)
        && groups.is_empty()
    {
        groups = service_account_groups(namespace);
    }
    let has = |groups: &[String], one: &str| groups.iter().any(|group| group == one);
    if requested.user == ANONYMOUS {
        if !has(&groups, UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !has(&groups, AUTHENTICATED) && !has(&groups, UNAUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    UserInfo {
        name: requested.user,
        uid: requested.uid,
        groups,
        extra: requested.extra,
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
        assert_eq!(
            requested_user(&headers(&[("accept", "*/*")])).unwrap(),
            None
        );
        let mut request_headers = headers(&[
            ("impersonate-user", "ann"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-acme.com%2fproject", "x"),
        ]);
        for group in ["a", "b"] {
            request_headers.append("impersonate-group", http::HeaderValue::from_static(group));
        }
        let requested = requested_user(&request_headers).unwrap().unwrap();
        assert_eq!(
            (requested.user.as_str(), requested.uid.as_str()),
            ("ann", "7")
        );
        assert_eq!(requested.groups, ["a", "b"]);
        assert_eq!(requested.extra["acme.com/project"], ["x"]);
        let permissions: Vec<String> = permissions(&requested)
            .into_iter()
            .map(|a| format!("{}/{}/{}/{}", a.group, a.resource, a.subresource, a.name))
            .collect();
        assert_eq!(
            permissions,
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
            assert_eq!(
                requested_user(&headers(&[(alone, "x")])).unwrap_err().code,
                400
            );
        }
        without_headers(&mut request_headers);
        assert!(request_headers.is_empty());
    }

    #[test]
    fn groups_are_completed() {
        let user = |name: &str, groups: &[&str]| {
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            let requested = RequestedUser {
                user: name.to_owned(),
                groups,
                ..RequestedUser::default()
            };
            user_of(requested).groups
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
