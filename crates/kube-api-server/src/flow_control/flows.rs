//! The configuration in force: the schemas in matching order, each with its level.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::{HeaderName, HeaderValue};
use json_tree::Value;
use resource_kinds::flowcontrol::{self, CATCH_ALL};

use super::levels::{self, Limit, PriorityLevel, SeatLimits, WIDTH_MAX};
use super::schemas::Schema;
use crate::http::request_info::RequestInfo;
use crate::http::user::UserInfo;

const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

pub(crate) struct ActiveSchemas {
    schemas: Vec<Arc<ActiveSchema>>,
}

/// A schema together with its priority level.
pub(crate) struct ActiveSchema {
    pub(super) schema: Schema,
    pub(super) level: Arc<str>,
    is_exempt: bool,
    /// The maximum number of seats of one of its requests.
    pub(super) width_max: usize,
    headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) counts: Arc<Counts>,
}

/// Counters of the requests of a schema at a priority level.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) waiting: AtomicUsize,
    pub(super) executing: AtomicUsize,
    pub(super) dispatched: AtomicU64,
    pub(super) queue_full: AtomicU64,
    pub(super) no_seat: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) cancelled: AtomicU64,
    /// Requests by their number of seats; index 0 is for one seat.
    pub(super) widths: [AtomicU64; WIDTH_MAX],
}

impl Counts {
    /// Counts a request with this number of seats.
    pub(super) fn is_wide(&self, width: usize) {
        let count = width.checked_sub(1).and_then(|at| self.widths.get(at));
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl ActiveSchema {
    /// Whether the requests of the schema are not limited.
    pub(crate) fn is_exempt(&self) -> bool {
        self.is_exempt
    }

    /// The response headers. They contain UIDs, because the names of the objects are not public.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + '_ {
        self.headers.iter().cloned()
    }
}

impl ActiveSchemas {
    /// The configuration from the stored objects. Missing or invalid mandatory objects get their fixed values. The
    /// counters of `before` are retained.
    pub(crate) fn new(
        schemas: &[Value],
        levels: &[Value],
        total: usize,
        before: Option<&Self>,
    ) -> (Self, BTreeMap<Arc<str>, SeatLimits>) {
        let mut levels: Vec<PriorityLevel> =
            levels.iter().filter_map(PriorityLevel::read).collect();
        let mut read: Vec<Schema> = schemas.iter().filter_map(Schema::read).collect();
        let mandatory = flowcontrol::mandatory();
        let fixed = mandatory.iter().filter_map(PriorityLevel::read);
        let missing: Vec<PriorityLevel> = fixed
            .filter(|fixed| !levels.iter().any(|level| level.name == fixed.name))
            .collect();
        levels.extend(missing);
        read.retain(|schema| levels.iter().any(|level| level.name == schema.level));
        let fixed = mandatory.iter().filter_map(Schema::read);
        let missing: Vec<Schema> = fixed
            .filter(|fixed| !read.iter().any(|schema| schema.name == fixed.name))
            .collect();
        read.extend(missing);
        read.sort_by(Schema::order);
        let bounds = levels::bounds(&levels, total);
        let flows = read.into_iter().map(|schema| {
            let level = levels.iter().find(|level| level.name == schema.level);
            let width_max = bounds
                .get(schema.level.as_str())
                .map_or(1, |bounds| bounds.width_max);
            Arc::new(flow(schema, level, width_max, before))
        });
        let flows = Self {
            schemas: flows.collect(),
        };
        (flows, bounds)
    }

    /// The first schema that matches a request. The request of a user without the usual groups may match no schema;
    /// the schema `catch-all` is used then.
    pub(crate) fn of(&self, user: &UserInfo, info: &RequestInfo) -> Option<&Arc<ActiveSchema>> {
        let mut schemas = self.schemas.iter();
        let matching = schemas.find(|flow| flow.schema.matches(user, info));
        if matching.is_some_and(|flow| flow.is_exempt()) {
            cov_mark::hit!(findings_c53);
        }
        let caught = || {
            self.schemas
                .iter()
                .find(|flow| flow.schema.name == CATCH_ALL)
        };
        matching.or_else(caught)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &ActiveSchema> {
        self.schemas.iter().map(AsRef::as_ref)
    }
}

fn flow(
    schema: Schema,
    level: Option<&PriorityLevel>,
    width_max: usize,
    before: Option<&ActiveSchemas>,
) -> ActiveSchema {
    let same =
        |flow: &&ActiveSchema| flow.schema.name == schema.name && *flow.level == *schema.level;
    let counts = before.and_then(|before| before.all().find(same));
    let counts = counts.map_or_else(Arc::default, |flow| flow.counts.clone());
    let uid = level.map_or("", |level| &level.uid);
    let header = |name, uid: &str| {
        let value = HeaderValue::from_str(uid)
            .ok()
            .filter(|_| !uid.is_empty())?;
        Some((name, value))
    };
    let headers = [
        header(SCHEMA_HEADER, &schema.uid),
        header(LEVEL_HEADER, uid),
    ];
    ActiveSchema {
        level: schema.level.as_str().into(),
        is_exempt: level.is_some_and(|level| matches!(level.limit, Limit::Exempt)),
        width_max,
        headers: headers.into_iter().flatten().collect(),
        counts,
        schema,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use json_tree::json;

    use super::*;
    use crate::http::query::Query;

    fn request_info(path: &str) -> RequestInfo {
        RequestInfo::new(&Method::GET, path, &Query::parse(""))
    }

    fn schema(name: &str, level: &str, precedence: i64) -> Value {
        json!({"metadata": {"name": name, "uid": format!("uid-of-{name}")}, "spec": {
            "priorityLevelConfiguration": {"name": level},
            "matchingPrecedence": precedence,
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "*"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }],
        }})
    }

    /// findings C53: `system:masters` is exempt, whatever the stored objects.
    #[test]
    fn mandatory_schemas_are_in_force_without_being_stored() {
        cov_mark::check!(findings_c53);
        let all = [schema("a", "catch-all", 2), schema("dangling", "none", 2)];
        let (flows, bounds) = ActiveSchemas::new(&all, &[], 7, None);
        let names: Vec<&str> = flows.all().map(|flow| flow.schema.name.as_str()).collect();
        assert_eq!(names, ["exempt", "a", "catch-all"]);
        assert_eq!(bounds["catch-all"].nominal, 7);
        let master = UserInfo::new("m", ["system:masters"]);
        assert!(flows.of(&master, &request_info("/x")).unwrap().is_exempt());
        let user = UserInfo::new("u", ["g"]);
        let matching = flows.of(&user, &request_info("/x")).unwrap();
        assert_eq!(matching.schema.name, "a");
        let headers: Vec<String> = matching
            .headers()
            .map(|(name, _)| name.to_string())
            .collect();
        assert_eq!(
            headers,
            [SCHEMA_HEADER.as_str()],
            "the level has no uid yet"
        );
        // The user is in no group of the schemas.
        let matching = flows.of(&user, &request_info("/api/v1/pods")).unwrap();
        assert_eq!(matching.schema.name, "catch-all");
    }

    /// findings C54
    #[test]
    fn counts_go_on_when_something_else_changes() {
        let all = [schema("a", "catch-all", 2)];
        let (before, _) = ActiveSchemas::new(&all, &[], 7, None);
        let (after, _) = ActiveSchemas::new(&all, &[], 8, Some(&before));
        for (one, other) in before.all().zip(after.all()) {
            assert!(Arc::ptr_eq(&one.counts, &other.counts));
        }
    }
}
