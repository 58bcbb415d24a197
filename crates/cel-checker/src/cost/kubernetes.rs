//! The costs of the libraries of Kubernetes (k8s.io/apiserver, `pkg/cel/library/cost.go`).

use cel::common::ast::{Expr, LiteralValue};

use super::calls::{Call, Estimate, PATTERN_FACTOR, TEXT_FACTOR, pattern_cost};
use super::sizes::{PathStep, ValueSize};
use super::{Argument, Range};
use crate::types::Type;

/// The cost of a permission check, which allows for two checks in one expression.
const CHECK_COST: Range = Range::fixed(350_000);
/// The size of the pattern of a named format.
const FORMAT_SIZE: f64 = 64.0;
/// The bytes of an address.
const ADDRESS_SIZE: Range = Range { min: 4, max: 16 };

/// The cost of a call; `None` for a function that has no cost of its own.
pub(super) fn cost<'t>(
    call: &Call<'_, '_>,
    type_of: impl Fn(&Argument<'_>) -> &'t Type,
    root: &ValueSize,
) -> Option<Estimate> {
    let reading = |size: Range| size.scaled(TEXT_FACTOR);
    let (target, arguments) = (call.target, call.arguments);
    Some(match call.function {
        "check" => (CHECK_COST, None),
        "serviceAccount"
        | "path"
        | "group"
        | "resource"
        | "subresource"
        | "namespace"
        | "name"
        | "allowed"
        | "reason"
        | "error"
        | "errored"
        | "sign"
        | "asInteger"
        | "isInteger"
        | "asApproximateFloat"
        | "isGreaterThan"
        | "isLessThan"
        | "compareTo"
        | "add"
        | "sub"
        | "masked"
        | "prefixLength"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "getScheme"
        | "getHostname"
        | "getHost"
        | "getPort"
        | "getEscapedPath"
        | "getQuery" => (Range::ONE, None),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            let target = target?;
            match type_of(target) {
                Type::List(element) => {
                    let text = match &**element {
                        Type::String | Type::Bytes => reading(elements(target, root)),
                        _ => Range::ZERO,
                    };
                    (target.known().times(Range::ONE.plus(text)), None)
                }
                _ => (reading(target.known()), None),
            }
        }
        "url" | "escapeKey" if arguments.len() == 1 => (reading(arguments.first()?.known()), None),
        "lowerAscii" | "upperAscii" | "substring" | "trim" => {
            let size = target?.known();
            (reading(size), Some(size))
        }
        "replace" => match arguments {
            [part, by, ..] => replaced(target?.known(), part.known(), by.known()),
            _ => return None,
        },
        "split" => {
            let size = target?.known();
            let limit = arguments.get(1).and_then(literal_number);
            let max = limit.unwrap_or(size.max);
            (size.scaled(2.0 * TEXT_FACTOR), Some(Range::up_to(max)))
        }
        "join" => joined(target?, arguments.first(), root),
        "find" | "findAll" => {
            let size = target?.known();
            let cost = pattern_cost(size, arguments.first()?.known());
            (cost, Some(Range::up_to(size.max)))
        }
        "ip" if target.is_some() => (Range::ONE, None),
        "containsIP" => {
            target?;
            let compared = reading(ADDRESS_SIZE.plus(ADDRESS_SIZE));
            (compared.plus(parsed(call, "cidr_contains_ip_string")), None)
        }
        "containsCIDR" => {
            target?;
            let compared = reading(ADDRESS_SIZE.plus(ADDRESS_SIZE));
            let masked = reading(ADDRESS_SIZE).plus(Range::ONE);
            let parsed = parsed(call, "cidr_contains_cidr_string");
            (compared.plus(masked).plus(parsed), None)
        }
        "validate" => {
            target?;
            let text = reading(arguments.first()?.known());
            (text.scaled(FORMAT_SIZE * PATTERN_FACTOR), None)
        }
        "_==_" if has_fixed_size(type_of(arguments.first()?)) => (Range::ONE, None),
        _ => return None,
    })
}

/// The size of the elements of a list.
fn elements(list: &Argument<'_>, root: &ValueSize) -> Range {
    let max = list.path.clone().and_then(|mut path| {
        path.push(PathStep::Elements);
        root.max_elements_at(&path)
    });
    max.map_or(Range::UNKNOWN, Range::up_to)
}

/// The cost of reading an argument that is a text.
fn parsed(call: &Call<'_, '_>, overload: &str) -> Range {
    match call.arguments.first() {
        Some(text) if **call.overload == *overload => text.known().scaled(TEXT_FACTOR),
        _ => Range::ZERO,
    }
}

fn joined(list: &Argument<'_>, separator: Option<&Argument<'_>>, root: &ValueSize) -> Estimate {
    let count = list.known();
    let mut size = count.times(elements(list, root));
    if let Some(separator) = separator {
        let between = Range {
            min: count.min.saturating_sub(1),
            max: count.max.saturating_sub(1),
        };
        size = size.plus(separator.known().times(between));
    }
    (size.scaled(TEXT_FACTOR), Some(size))
}

/// The result has the largest size if the shortest parts are replaced as often as possible.
fn replaced(text: Range, part: Range, by: Range) -> Estimate {
    let quotient = |size: u64, part: u64| (size as f64 / part as f64).ceil() as u64;
    let (count_max, kept_max) = match part.min {
        0 => (text.max.saturating_add(1), text.max),
        shortest if by.max <= shortest => (0, text.max),
        shortest => (quotient(text.max, shortest), 0),
    };
    let (count_min, kept_min) = match part.max {
        0 => (text.min.saturating_add(1), text.min),
        longest if longest <= by.min => (0, text.min),
        longest => (quotient(text.min, longest), 0),
    };
    let count = Range {
        min: count_min,
        max: count_max,
    };
    let kept = Range {
        min: kept_min,
        max: kept_max,
    };
    let size = count.times(by).plus(kept);
    (text.scaled(2.0 * TEXT_FACTOR), Some(size))
}

fn literal_number(argument: &Argument<'_>) -> Option<u64> {
    match &argument.expression.expr {
        Expr::Literal(LiteralValue::Int(number)) => u64::try_from(*number.inner()).ok(),
        _ => None,
    }
}

/// Whether two values of a type are compared in one step.
fn has_fixed_size(of: &Type) -> bool {
    match of {
        Type::Opaque(name, _) => matches!(&**name, "net.IP" | "net.CIDR"),
        Type::Object(object) => object.name.starts_with("kubernetes."),
        _ => false,
    }
}
