//! The number of seats of a request, from the number of objects that it reads, as upstream (KEP-1040).

use std::collections::BTreeMap;

use crate::http::query::Query;
use crate::http::request_info::RequestInfo;

/// Number of objects that a list reads per seat (upstream's value).
const OBJECTS_PER_SEAT: usize = 100;

/// The number of stored objects of each resource: group and plural.
pub(crate) type Counts = BTreeMap<(String, String), usize>;

/// The seats of a request: one; for a list, one per hundred objects, up to the maximum of its level.
pub(super) fn of(info: &RequestInfo, query: &Query, counts: &Counts, max: usize) -> usize {
    let lists = match info.verb.as_str() {
        "list" => true,
        "watch" => query.flag("sendInitialEvents"),
        _ => false,
    };
    // A list of one object by name reads one object only.
    if !lists || !info.name.is_empty() {
        return 1;
    }
    let key = (info.group.clone(), info.resource.clone());
    let stored = counts.get(&key).copied().unwrap_or(0);
    let selects = |name: &str| query.get(name).is_some();
    let limit = query.number("limit").ok().flatten();
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    let read = match limit.filter(|limit| *limit > 0) {
        Some(limit) if !selects("labelSelector") && !selects("fieldSelector") => stored.min(limit),
        _ => stored,
    };
    read.div_ceil(OBJECTS_PER_SEAT).clamp(1, max.max(1))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn width(method: &Method, path: &str, query: &str) -> usize {
        let counts = [("pods", 451), ("nodes", 100), ("secrets", 5000)];
        let counts = counts.map(|(plural, count)| ((String::new(), plural.to_owned()), count));
        let query = Query::parse(query);
        let info = RequestInfo::new(method, path, &query);
        of(&info, &query, &counts.into(), 10)
    }

    /// findings C55: a list takes more seats than a get.
    #[test]
    fn lists_are_as_wide_as_their_objects_are_many() {
        let get = |path: &str, query: &str| width(&Method::GET, path, query);
        assert_eq!(get("/api/v1/nodes", ""), 1);
        assert_eq!(get("/api/v1/pods", ""), 5);
        assert_eq!(get("/api/v1/secrets", ""), 10, "the bound of the level");
        assert_eq!(get("/api/v1/nothing", ""), 1);
        assert_eq!(get("/apis/apps/v1/pods", ""), 1, "another group");
        // A page counts its `limit`, unless the request must read all objects.
        assert_eq!(get("/api/v1/secrets", "limit=300"), 3);
        assert_eq!(get("/api/v1/secrets", "limit=0"), 10);
        assert_eq!(get("/api/v1/pods", "limit=100&labelSelector=a%3Db"), 5);
        assert_eq!(get("/api/v1/pods", "fieldSelector=metadata.name%3Da"), 1);
        // A watch that starts with a list counts as a list; another watch has one seat.
        assert_eq!(get("/api/v1/pods", "watch=1"), 1);
        assert_eq!(get("/api/v1/pods", "watch=1&sendInitialEvents=true"), 5);
        // Other requests have one seat.
        assert_eq!(get("/api/v1/namespaces/a/pods/b", ""), 1);
        assert_eq!(width(&Method::POST, "/api/v1/namespaces/a/pods", ""), 1);
        assert_eq!(get("/metrics", ""), 1);
    }
}
