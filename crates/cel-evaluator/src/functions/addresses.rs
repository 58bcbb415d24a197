//! IP addresses and address ranges.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::call::Style::{Both, Global, Member};
use crate::call::{
    FunctionResult, Table, failed, no_overload, nominal, reading, reading_twice, size, traversal,
};
use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::value::Value;

pub(super) const TABLE: Table = &[
    ("cidr", Global, range, reading),
    ("containsCIDR", Member, contains_range, range_compared),
    ("containsIP", Member, contains_address, address_compared),
    ("family", Member, family, nominal),
    ("ip", Both, address, address_cost),
    ("ip.isCanonical", Global, is_canonical, reading_twice),
    ("isCIDR", Global, is_range, reading),
    ("isGlobalUnicast", Member, is_global_unicast, nominal),
    ("isIP", Global, is_address, reading),
    (
        "isLinkLocalMulticast",
        Member,
        is_link_local_multicast,
        nominal,
    ),
    ("isLinkLocalUnicast", Member, is_link_local_unicast, nominal),
    ("isLoopback", Member, is_loopback, nominal),
    ("isUnspecified", Member, is_unspecified, nominal),
    ("masked", Member, masked, nominal),
    ("prefixLength", Member, prefix_length, nominal),
];

fn address_cost(arguments: &[Value], result: Option<&Value>) -> u64 {
    match arguments {
        [Value::Range(_)] => 1,
        _ => reading(arguments, result),
    }
}

fn address_compared(arguments: &[Value], _result: Option<&Value>) -> u64 {
    let compared = traversal(2 * size(arguments, 0));
    match arguments {
        [_, Value::String(_)] => compared + traversal(size(arguments, 1)),
        _ => compared,
    }
}

fn range_compared(arguments: &[Value], result: Option<&Value>) -> u64 {
    address_compared(arguments, result) + traversal(size(arguments, 0)) + 1
}

/// An address without a zone that is no IPv4 address in the form of an IPv6 address.
fn parsed(text: &str) -> Result<IpAddr, EvaluationError> {
    let address: IpAddr = text.parse().map_err(|_| match text.contains('%') {
        true => failed(format!("IP address {text:?} with zone value is not allowed")),
        false => failed(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        )),
    })?;
    if is_mapped(address) {
        return Err(failed(format!(
            "IPv4-mapped IPv6 address {text:?} is not allowed"
        )));
    }
    Ok(address)
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

fn parsed_range(text: &str) -> Result<IpNet, EvaluationError> {
    let wrong = |why: &str| {
        failed(format!(
            "network address parse error during conversion from string: network address parse error during \
             conversion from string: netip.ParsePrefix({text:?}): {why}"
        ))
    };
    let (address, length) = text.split_once('/').ok_or_else(|| wrong("no '/'"))?;
    let address: IpAddr = address.parse().map_err(|_| wrong("unable to parse IP"))?;
    let is_number = !length.is_empty()
        && length.bytes().all(|byte| byte.is_ascii_digit())
        && (length.len() == 1 || !length.starts_with('0'));
    let length: u8 = length
        .parse()
        .ok()
        .filter(|_| is_number)
        .ok_or_else(|| wrong("bad bits after slash"))?;
    if is_mapped(address) {
        return Err(failed(format!(
            "IPv4-mapped IPv6 address {text:?} is not allowed"
        )));
    }
    IpNet::new(address, length).map_err(|_| wrong("prefix length out of range"))
}

fn address(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text)] => parsed(text).map(Value::Address),
        [Value::Range(range)] => Ok(Value::Address(range.addr())),
        _ => no_overload(),
    }
}

fn is_address(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text)] => Ok(Value::Bool(parsed(text).is_ok())),
        _ => no_overload(),
    }
}

fn is_canonical(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text)] => Ok(Value::Bool(parsed(text)?.to_string() == **text)),
        _ => no_overload(),
    }
}

fn test(arguments: &[Value], test: fn(IpAddr) -> bool) -> FunctionResult {
    match arguments {
        [Value::Address(address)] => Ok(Value::Bool(test(*address))),
        _ => no_overload(),
    }
}

fn family(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Address(IpAddr::V4(_))] => Ok(Value::Int(4)),
        [Value::Address(IpAddr::V6(_))] => Ok(Value::Int(6)),
        _ => no_overload(),
    }
}

fn is_unspecified(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    test(arguments, |address| address.is_unspecified())
}

fn is_loopback(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    test(arguments, |address| address.is_loopback())
}

fn is_link_local_multicast(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    test(arguments, |address| match address {
        IpAddr::V4(address) => matches!(address.octets(), [224, 0, 0, _]),
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    })
}

fn is_link_local_unicast(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    test(arguments, is_link_local)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn is_global_unicast(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    test(arguments, |address| {
        !address.is_unspecified()
            && address != IpAddr::V4(Ipv4Addr::BROADCAST)
            && !address.is_loopback()
            && !address.is_multicast()
            && !is_link_local(address)
    })
}

fn range(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text)] => parsed_range(text).map(Value::Range),
        _ => no_overload(),
    }
}

fn is_range(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text)] => Ok(Value::Bool(parsed_range(text).is_ok())),
        _ => no_overload(),
    }
}

fn contains_address(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    let (range, address) = match arguments {
        [Value::Range(range), Value::Address(address)] => (range, *address),
        [Value::Range(range), Value::String(text)] => (range, parsed(text)?),
        _ => return no_overload(),
    };
    Ok(Value::Bool(range.contains(&address)))
}

fn contains_range(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    let (range, other) = match arguments {
        [Value::Range(range), Value::Range(other)] => (range, *other),
        [Value::Range(range), Value::String(text)] => (range, parsed_range(text)?),
        _ => return no_overload(),
    };
    let is_inside = range.prefix_len() <= other.prefix_len() && range.contains(&other.addr());
    Ok(Value::Bool(is_inside))
}

fn prefix_length(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Range(range)] => Ok(Value::Int(i64::from(range.prefix_len()))),
        _ => no_overload(),
    }
}

fn masked(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Range(range)] => Ok(Value::Range(range.trunc())),
        _ => no_overload(),
    }
}
