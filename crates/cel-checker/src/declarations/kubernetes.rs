//! The libraries of Kubernetes (k8s.io/apiserver, `pkg/cel/library`).

use std::sync::Arc;

use super::signature::{self, Overload, Table};
use crate::types::Type;

/// The types that an expression can name.
pub(super) fn types() -> Vec<(String, Type)> {
    let names = ["net.IP", "net.CIDR"];
    let named = |name: &str| (name.to_owned(), Type::Opaque(Arc::from(name), Vec::new()));
    names.map(named).to_vec()
}

/// Searches with regular expressions.
pub(super) const REGEX: &Table = &[
    (
        "find",
        &[("string_find_string", "string.(string) -> string")],
    ),
    (
        "findAll",
        &[
            ("string_find_all_string", "string.(string) -> list(string)"),
            (
                "string_find_all_string_int",
                "string.(string, int) -> list(string)",
            ),
        ],
    ),
];

/// Positions in lists.
pub(super) const LISTS: &Table = &[
    ("indexOf", &[("list_a_index_of_int", "list(A).(A) -> int")]),
    (
        "lastIndexOf",
        &[("list_a_last_index_of_int", "list(A).(A) -> int")],
    ),
];

/// URLs.
pub(super) const URLS: &Table = &[
    ("url", &[("string_to_url", "(string) -> kubernetes.URL")]),
    (
        "getScheme",
        &[("url_get_scheme", "kubernetes.URL.() -> string")],
    ),
    (
        "getHost",
        &[("url_get_host", "kubernetes.URL.() -> string")],
    ),
    (
        "getHostname",
        &[("url_get_hostname", "kubernetes.URL.() -> string")],
    ),
    (
        "getPort",
        &[("url_get_port", "kubernetes.URL.() -> string")],
    ),
    (
        "getEscapedPath",
        &[("url_get_escaped_path", "kubernetes.URL.() -> string")],
    ),
    (
        "getQuery",
        &[(
            "url_get_query",
            "kubernetes.URL.() -> map(string, list(string))",
        )],
    ),
    ("isURL", &[("is_url_string", "(string) -> bool")]),
];

/// Quantities.
pub(super) const QUANTITIES: &Table = &[
    (
        "quantity",
        &[("string_to_quantity", "(string) -> kubernetes.Quantity")],
    ),
    ("isQuantity", &[("is_quantity_string", "(string) -> bool")]),
    ("sign", &[("quantity_sign", "(kubernetes.Quantity) -> int")]),
    (
        "isGreaterThan",
        &[(
            "quantity_is_greater_than",
            "kubernetes.Quantity.(kubernetes.Quantity) -> bool",
        )],
    ),
    (
        "isLessThan",
        &[(
            "quantity_is_less_than",
            "kubernetes.Quantity.(kubernetes.Quantity) -> bool",
        )],
    ),
    (
        "compareTo",
        &[(
            "quantity_compare_to",
            "kubernetes.Quantity.(kubernetes.Quantity) -> int",
        )],
    ),
    (
        "asApproximateFloat",
        &[("quantity_get_float", "kubernetes.Quantity.() -> double")],
    ),
    (
        "asInteger",
        &[("quantity_get_int", "kubernetes.Quantity.() -> int")],
    ),
    (
        "isInteger",
        &[("quantity_is_integer", "kubernetes.Quantity.() -> bool")],
    ),
    (
        "add",
        &[
            (
                "quantity_add",
                "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity",
            ),
            (
                "quantity_add_int",
                "kubernetes.Quantity.(int) -> kubernetes.Quantity",
            ),
        ],
    ),
    (
        "sub",
        &[
            (
                "quantity_sub",
                "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity",
            ),
            (
                "quantity_sub_int",
                "kubernetes.Quantity.(int) -> kubernetes.Quantity",
            ),
        ],
    ),
];

/// IP addresses and address ranges.
pub(super) const ADDRESSES: &Table = &[
    (
        "ip",
        &[
            ("string_to_ip", "(string) -> net.IP()"),
            ("cidr_ip", "net.CIDR().() -> net.IP()"),
        ],
    ),
    ("family", &[("ip_family", "net.IP().() -> int")]),
    ("ip.isCanonical", &[("ip_is_canonical", "(string) -> bool")]),
    (
        "isUnspecified",
        &[("ip_is_unspecified", "net.IP().() -> bool")],
    ),
    ("isLoopback", &[("ip_is_loopback", "net.IP().() -> bool")]),
    (
        "isLinkLocalMulticast",
        &[("ip_is_link_local_multicast", "net.IP().() -> bool")],
    ),
    (
        "isLinkLocalUnicast",
        &[("ip_is_link_local_unicast", "net.IP().() -> bool")],
    ),
    (
        "isGlobalUnicast",
        &[("ip_is_global_unicast", "net.IP().() -> bool")],
    ),
    ("isIP", &[("is_ip", "(string) -> bool")]),
    (
        "string",
        &[
            ("ip_to_string", "(net.IP()) -> string"),
            ("cidr_to_string", "(net.CIDR()) -> string"),
        ],
    ),
    ("cidr", &[("string_to_cidr", "(string) -> net.CIDR()")]),
    (
        "containsIP",
        &[
            ("cidr_contains_ip_string", "net.CIDR().(string) -> bool"),
            ("cidr_contains_ip_ip", "net.CIDR().(net.IP()) -> bool"),
        ],
    ),
    (
        "containsCIDR",
        &[
            ("cidr_contains_cidr_string", "net.CIDR().(string) -> bool"),
            ("cidr_contains_cidr", "net.CIDR().(net.CIDR()) -> bool"),
        ],
    ),
    (
        "prefixLength",
        &[("cidr_prefix_length", "net.CIDR().() -> int")],
    ),
    ("masked", &[("cidr_masked", "net.CIDR().() -> net.CIDR()")]),
    ("isCIDR", &[("is_cidr", "(string) -> bool")]),
];

/// Named formats of texts.
pub(super) const FORMATS: &Table = &[
    (
        "format.dns1123Label",
        &[("format.dns1123Label", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.dns1123Subdomain",
        &[("format.dns1123Subdomain", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.dns1035Label",
        &[("format.dns1035Label", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.qualifiedName",
        &[("format.qualifiedName", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.dns1123LabelPrefix",
        &[("format.dns1123LabelPrefix", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.dns1123SubdomainPrefix",
        &[(
            "format.dns1123SubdomainPrefix",
            "() -> kubernetes.NamedFormat",
        )],
    ),
    (
        "format.dns1035LabelPrefix",
        &[("format.dns1035LabelPrefix", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.labelValue",
        &[("format.labelValue", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.uri",
        &[("format.uri", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.uuid",
        &[("format.uuid", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.byte",
        &[("format.byte", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.date",
        &[("format.date", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.datetime",
        &[("format.datetime", "() -> kubernetes.NamedFormat")],
    ),
    (
        "format.named",
        &[(
            "format-named",
            "(string) -> optional_type(kubernetes.NamedFormat)",
        )],
    ),
    (
        "validate",
        &[(
            "format-validate",
            "kubernetes.NamedFormat.(string) -> optional_type(list(string))",
        )],
    ),
];

/// Semantic versions.
pub(super) const VERSIONS: &Table = &[
    (
        "semver",
        &[
            ("string_to_semver", "(string) -> kubernetes.Semver"),
            (
                "string_bool_to_semver",
                "(string, bool) -> kubernetes.Semver",
            ),
        ],
    ),
    (
        "isSemver",
        &[
            ("is_semver_string", "(string) -> bool"),
            ("is_semver_string_bool", "(string, bool) -> bool"),
        ],
    ),
    (
        "isGreaterThan",
        &[(
            "semver_is_greater_than",
            "kubernetes.Semver.(kubernetes.Semver) -> bool",
        )],
    ),
    (
        "isLessThan",
        &[(
            "semver_is_less_than",
            "kubernetes.Semver.(kubernetes.Semver) -> bool",
        )],
    ),
    (
        "compareTo",
        &[(
            "semver_compare_to",
            "kubernetes.Semver.(kubernetes.Semver) -> int",
        )],
    ),
    ("major", &[("semver_major", "kubernetes.Semver.() -> int")]),
    ("minor", &[("semver_minor", "kubernetes.Semver.() -> int")]),
    ("patch", &[("semver_patch", "kubernetes.Semver.() -> int")]),
];

/// Checks of permissions.
pub(super) const AUTHORIZER: &Table = &[
    (
        "path",
        &[(
            "authorizer_path",
            "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.PathCheck",
        )],
    ),
    (
        "group",
        &[(
            "authorizer_group",
            "kubernetes.authorization.Authorizer.(string) -> kubernetes.authorization.GroupCheck",
        )],
    ),
    (
        "serviceAccount",
        &[(
            "authorizer_serviceaccount",
            "kubernetes.authorization.Authorizer.(string, string) -> kubernetes.authorization.Authorizer",
        )],
    ),
    (
        "resource",
        &[(
            "groupcheck_resource",
            "kubernetes.authorization.GroupCheck.(string) -> kubernetes.authorization.ResourceCheck",
        )],
    ),
    (
        "subresource",
        &[(
            "resourcecheck_subresource",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        )],
    ),
    (
        "namespace",
        &[(
            "resourcecheck_namespace",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        )],
    ),
    (
        "name",
        &[(
            "resourcecheck_name",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        )],
    ),
    (
        "check",
        &[
            (
                "pathcheck_check",
                "kubernetes.authorization.PathCheck.(string) -> kubernetes.authorization.Decision",
            ),
            (
                "resourcecheck_check",
                "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.Decision",
            ),
        ],
    ),
    (
        "errored",
        &[(
            "decision_errored",
            "kubernetes.authorization.Decision.() -> bool",
        )],
    ),
    (
        "error",
        &[(
            "decision_error",
            "kubernetes.authorization.Decision.() -> string",
        )],
    ),
    (
        "allowed",
        &[(
            "decision_allowed",
            "kubernetes.authorization.Decision.() -> bool",
        )],
    ),
    (
        "reason",
        &[(
            "decision_reason",
            "kubernetes.authorization.Decision.() -> string",
        )],
    ),
    (
        "fieldSelector",
        &[(
            "authorizer_fieldselector",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        )],
    ),
    (
        "labelSelector",
        &[(
            "authorizer_labelselector",
            "kubernetes.authorization.ResourceCheck.(string) -> kubernetes.authorization.ResourceCheck",
        )],
    ),
];

/// JSON patches.
pub(super) const JSON_PATCH: &Table = &[(
    "jsonpatch.escapeKey",
    &[("string_jsonpatch_escapeKey_string", "(string) -> string")],
)];

/// The functions of lists that have an overload for each type with an order or with a sum.
pub(super) fn of_each_comparable_type() -> Vec<(String, Vec<Overload>)> {
    const SUMMABLE: &[&str] = &["int", "uint", "double", "duration"];
    const COMPARABLE: &[&str] = &[
        "int",
        "uint",
        "double",
        "bool",
        "duration",
        "timestamp",
        "string",
        "bytes",
    ];
    let of_each = |types: &[&str], id: fn(&str) -> String, result: fn(&str) -> &str| {
        let overloads = types.iter().filter_map(|of| {
            let result = result(of);
            signature::parse(&id(of), &format!("list({of}).() -> {result}"))
        });
        overloads.collect()
    };
    let is_sorted = of_each(
        COMPARABLE,
        |of| format!("list_{of}_is_sorted_bool"),
        |_| "bool",
    );
    let sum = of_each(SUMMABLE, |of| format!("list_{of}_sum_{of}"), |of| of);
    let max = of_each(COMPARABLE, |of| format!("list_{of}_max_{of}"), |of| of);
    let min = of_each(COMPARABLE, |of| format!("list_{of}_min_{of}"), |of| of);
    vec![
        ("isSorted".to_owned(), is_sorted),
        ("sum".to_owned(), sum),
        ("max".to_owned(), max),
        ("min".to_owned(), min),
    ]
}
