//! The macro for values that are written as JSON in the source.

use serde::Serialize;

use crate::{Value, to_value};

/// A value, written as JSON. An expression is replaced by its value, also as a key.
///
/// ```
/// use json_tree::json;
/// let name = "web";
/// let pod = json!({"metadata": {"name": name, "labels": null}, "ports": [80, 440 + 3]});
/// assert_eq!(pod["metadata"]["name"], "web");
/// assert_eq!(pod["ports"][1], 443);
/// ```
///
/// # Panics
///
/// If the value of an expression has no form in JSON, for instance a map whose keys are lists.
#[macro_export]
macro_rules! json {
    (null) => { $crate::Value::Null };
    ([]) => { $crate::Value::Array(::std::vec::Vec::new()) };
    ([ $($elements:tt)+ ]) => { $crate::Value::Array($crate::json_elements!([] $($elements)+)) };
    ({}) => { $crate::Value::Object($crate::Map::new()) };
    ({ $($members:tt)+ }) => {
        $crate::Value::Object({
            let mut map = $crate::Map::new();
            $crate::json_members!(map () $($members)+);
            map
        })
    };
    ($value:expr) => { $crate::interpolated(&$value) };
}

/// The elements of an array: those already converted, then the tokens of the rest.
#[doc(hidden)]
#[macro_export]
macro_rules! json_elements {
    ([ $($converted:expr,)* ]) => { ::std::vec![$($converted),*] };
    ([ $($converted:expr,)* ] null $(, $($rest:tt)*)?) => {
        $crate::json_elements!([ $($converted,)* $crate::json!(null), ] $($($rest)*)?)
    };
    ([ $($converted:expr,)* ] [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        $crate::json_elements!([ $($converted,)* $crate::json!([ $($inner)* ]), ] $($($rest)*)?)
    };
    ([ $($converted:expr,)* ] { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        $crate::json_elements!([ $($converted,)* $crate::json!({ $($inner)* }), ] $($($rest)*)?)
    };
    ([ $($converted:expr,)* ] $value:expr $(, $($rest:tt)*)?) => {
        $crate::json_elements!([ $($converted,)* $crate::json!($value), ] $($($rest)*)?)
    };
}

/// Inserts the members of an object. Arguments: the name of the map, the tokens of a key, and the tokens
/// after the key.
#[doc(hidden)]
#[macro_export]
macro_rules! json_members {
    ($map:ident ()) => {};
    ($map:ident () ($key:expr) : $($rest:tt)+) => {
        $crate::json_members!($map ($key) : $($rest)+)
    };
    ($map:ident ($($key:tt)+) : null $(, $($rest:tt)*)?) => {
        $map.insert(($($key)+).into(), $crate::json!(null));
        $crate::json_members!($map () $($($rest)*)?)
    };
    ($map:ident ($($key:tt)+) : [ $($inner:tt)* ] $(, $($rest:tt)*)?) => {
        $map.insert(($($key)+).into(), $crate::json!([ $($inner)* ]));
        $crate::json_members!($map () $($($rest)*)?)
    };
    ($map:ident ($($key:tt)+) : { $($inner:tt)* } $(, $($rest:tt)*)?) => {
        $map.insert(($($key)+).into(), $crate::json!({ $($inner)* }));
        $crate::json_members!($map () $($($rest)*)?)
    };
    ($map:ident ($($key:tt)+) : $value:expr $(, $($rest:tt)*)?) => {
        $map.insert(($($key)+).into(), $crate::json!($value));
        $crate::json_members!($map () $($($rest)*)?)
    };
    ($map:ident ($($key:tt)*) $next:tt $($rest:tt)+) => {
        $crate::json_members!($map ($($key)* $next) $($rest)+)
    };
}

/// The value of an expression in [`json!`].
pub fn interpolated(value: &(impl Serialize + ?Sized)) -> Value {
    to_value(value).expect("an expression in json! has a form in JSON")
}
