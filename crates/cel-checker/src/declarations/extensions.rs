//! The extension libraries (cel-go, `ext`).

use super::signature::{self, Overload, Table};

/// Functions of texts, version 2.
pub(super) const STRINGS: &Table = &[
    (
        "charAt",
        &[("string_char_at_int", "string.(int) -> string")],
    ),
    (
        "indexOf",
        &[
            ("string_index_of_string", "string.(string) -> int"),
            ("string_index_of_string_int", "string.(string, int) -> int"),
        ],
    ),
    (
        "lastIndexOf",
        &[
            ("string_last_index_of_string", "string.(string) -> int"),
            (
                "string_last_index_of_string_int",
                "string.(string, int) -> int",
            ),
        ],
    ),
    (
        "lowerAscii",
        &[("string_lower_ascii", "string.() -> string")],
    ),
    (
        "upperAscii",
        &[("string_upper_ascii", "string.() -> string")],
    ),
    (
        "replace",
        &[
            (
                "string_replace_string_string",
                "string.(string, string) -> string",
            ),
            (
                "string_replace_string_string_int",
                "string.(string, string, int) -> string",
            ),
        ],
    ),
    (
        "split",
        &[
            ("string_split_string", "string.(string) -> list(string)"),
            (
                "string_split_string_int",
                "string.(string, int) -> list(string)",
            ),
        ],
    ),
    (
        "substring",
        &[
            ("string_substring_int", "string.(int) -> string"),
            ("string_substring_int_int", "string.(int, int) -> string"),
        ],
    ),
    ("trim", &[("string_trim", "string.() -> string")]),
    (
        "format",
        &[("string_format", "string.(list(dyn)) -> string")],
    ),
    ("strings.quote", &[("strings_quote", "(string) -> string")]),
    (
        "join",
        &[
            ("list_join", "list(string).() -> string"),
            ("list_join_string", "list(string).(string) -> string"),
        ],
    ),
];

/// Functions of lists, version 3.
pub(super) const LISTS: &Table = &[
    ("slice", &[("list_slice", "list(T).(int, int) -> list(T)")]),
    (
        "flatten",
        &[
            ("list_flatten", "list(list(T)).() -> list(T)"),
            ("list_flatten_int", "list(dyn).(int) -> list(dyn)"),
        ],
    ),
    ("lists.range", &[("lists_range", "(int) -> list(int)")]),
    ("reverse", &[("list_reverse", "list(T).() -> list(T)")]),
    ("distinct", &[("list_distinct", "list(T).() -> list(T)")]),
];

/// Lists as sets.
pub(super) const SETS: &Table = &[
    (
        "sets.contains",
        &[("list_sets_contains_list", "(list(T), list(T)) -> bool")],
    ),
    (
        "sets.equivalent",
        &[("list_sets_equivalent_list", "(list(T), list(T)) -> bool")],
    ),
    (
        "sets.intersects",
        &[("list_sets_intersects_list", "(list(T), list(T)) -> bool")],
    ),
];

/// Functions of numbers.
pub(super) const MATH: &Table = &[
    (
        "math.@min",
        &[
            ("math_@min_int", "(int) -> int"),
            ("math_@min_uint", "(uint) -> uint"),
            ("math_@min_double", "(double) -> double"),
            ("math_@min_int_int", "(int, int) -> int"),
            ("math_@min_int_uint", "(int, uint) -> dyn"),
            ("math_@min_int_double", "(int, double) -> dyn"),
            ("math_@min_uint_int", "(uint, int) -> dyn"),
            ("math_@min_uint_uint", "(uint, uint) -> uint"),
            ("math_@min_uint_double", "(uint, double) -> dyn"),
            ("math_@min_double_int", "(double, int) -> dyn"),
            ("math_@min_double_uint", "(double, uint) -> dyn"),
            ("math_@min_double_double", "(double, double) -> double"),
            ("math_@min_list_int", "(list(int)) -> int"),
            ("math_@min_list_uint", "(list(uint)) -> uint"),
            ("math_@min_list_double", "(list(double)) -> double"),
        ],
    ),
    (
        "math.@max",
        &[
            ("math_@max_int", "(int) -> int"),
            ("math_@max_uint", "(uint) -> uint"),
            ("math_@max_double", "(double) -> double"),
            ("math_@max_int_int", "(int, int) -> int"),
            ("math_@max_int_uint", "(int, uint) -> dyn"),
            ("math_@max_int_double", "(int, double) -> dyn"),
            ("math_@max_uint_int", "(uint, int) -> dyn"),
            ("math_@max_uint_uint", "(uint, uint) -> uint"),
            ("math_@max_uint_double", "(uint, double) -> dyn"),
            ("math_@max_double_int", "(double, int) -> dyn"),
            ("math_@max_double_uint", "(double, uint) -> dyn"),
            ("math_@max_double_double", "(double, double) -> double"),
            ("math_@max_list_int", "(list(int)) -> int"),
            ("math_@max_list_uint", "(list(uint)) -> uint"),
            ("math_@max_list_double", "(list(double)) -> double"),
        ],
    ),
    ("math.ceil", &[("math_ceil_double", "(double) -> double")]),
    ("math.floor", &[("math_floor_double", "(double) -> double")]),
    ("math.round", &[("math_round_double", "(double) -> double")]),
    ("math.trunc", &[("math_trunc_double", "(double) -> double")]),
    ("math.isInf", &[("math_isInf_double", "(double) -> bool")]),
    ("math.isNaN", &[("math_isNaN_double", "(double) -> bool")]),
    (
        "math.isFinite",
        &[("math_isFinite_double", "(double) -> bool")],
    ),
    (
        "math.abs",
        &[
            ("math_abs_double", "(double) -> double"),
            ("math_abs_int", "(int) -> int"),
            ("math_abs_uint", "(uint) -> uint"),
        ],
    ),
    (
        "math.sign",
        &[
            ("math_sign_double", "(double) -> double"),
            ("math_sign_int", "(int) -> int"),
            ("math_sign_uint", "(uint) -> uint"),
        ],
    ),
    (
        "math.bitAnd",
        &[
            ("math_bitAnd_int_int", "(int, int) -> int"),
            ("math_bitAnd_uint_uint", "(uint, uint) -> uint"),
        ],
    ),
    (
        "math.bitOr",
        &[
            ("math_bitOr_int_int", "(int, int) -> int"),
            ("math_bitOr_uint_uint", "(uint, uint) -> uint"),
        ],
    ),
    (
        "math.bitXor",
        &[
            ("math_bitXor_int_int", "(int, int) -> int"),
            ("math_bitXor_uint_uint", "(uint, uint) -> uint"),
        ],
    ),
    (
        "math.bitNot",
        &[
            ("math_bitNot_int_int", "(int) -> int"),
            ("math_bitNot_uint_uint", "(uint) -> uint"),
        ],
    ),
    (
        "math.bitShiftLeft",
        &[
            ("math_bitShiftLeft_int_int", "(int, int) -> int"),
            ("math_bitShiftLeft_uint_int", "(uint, int) -> uint"),
        ],
    ),
    (
        "math.bitShiftRight",
        &[
            ("math_bitShiftRight_int_int", "(int, int) -> int"),
            ("math_bitShiftRight_uint_int", "(uint, int) -> uint"),
        ],
    ),
    (
        "math.sqrt",
        &[
            ("math_sqrt_double", "(double) -> double"),
            ("math_sqrt_int", "(int) -> double"),
            ("math_sqrt_uint", "(uint) -> double"),
        ],
    ),
];

/// Base64.
pub(super) const ENCODERS: &Table = &[
    (
        "base64.decode",
        &[("base64_decode_string", "(string) -> bytes")],
    ),
    (
        "base64.encode",
        &[("base64_encode_bytes", "(bytes) -> string")],
    ),
];

/// The functions of comprehensions with two variables.
pub(super) const COMPREHENSIONS: &Table = &[(
    "cel.@mapInsert",
    &[
        ("@mapInsert_map_key_value", "(map(K, V), K, V) -> map(K, V)"),
        ("@mapInsert_map_map", "(map(K, V), map(K, V)) -> map(K, V)"),
    ],
)];

/// The functions of lists that have an overload for each type with an order.
pub(super) fn of_each_comparable_type() -> Vec<(String, Vec<Overload>)> {
    const TYPES: [(&str, &str); 8] = [
        ("int", "int"),
        ("uint", "uint"),
        ("double", "double"),
        ("bool", "bool"),
        ("duration", "google.protobuf.Duration"),
        ("timestamp", "google.protobuf.Timestamp"),
        ("string", "string"),
        ("bytes", "bytes"),
    ];
    let of_each = |overload: fn(&str, &str) -> (String, String)| {
        let overloads = TYPES.into_iter().filter_map(|(of, name)| {
            let (id, signature) = overload(of, name);
            signature::parse(&id, &signature)
        });
        overloads.collect()
    };
    let sort = of_each(|of, name| {
        (
            format!("list_{name}_sort"),
            format!("list({of}).() -> list({of})"),
        )
    });
    let sort_by = of_each(|of, name| {
        (
            format!("list_{name}_sortByAssociatedKeys"),
            format!("list(T).(list({of})) -> list(T)"),
        )
    });
    vec![
        ("sort".to_owned(), sort),
        ("@sortByAssociatedKeys".to_owned(), sort_by),
    ]
}
