//! Validation of network addresses in objects.

use std::net::IpAddr;

use object_model::dialling::{SpecialAddress, special};
use object_model::{FieldError, names};

use crate::validation::field::{Field, Rules};

/// Protocols that ports may have.
pub(crate) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Checks that a text is an IP address in canonical form, without a zone.
pub(crate) fn check_ip(errors: &mut Vec<FieldError>, at: &Field<'_, '_>) {
    let Ok(address) = at.text().parse::<IpAddr>() else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(at.invalid(detail));
        return;
    };
    if address.to_string() != at.text() {
        let detail = format!("must be in canonical form (\"{address}\")");
        errors.push(at.invalid(detail));
    }
}

/// Checks that the address of an endpoint is a unicast address in canonical form.
pub(crate) fn check_endpoint_ip(errors: &mut Vec<FieldError>, at: &Field<'_, '_>) {
    let before = errors.len();
    check_ip(errors, at);
    let Ok(address) = at.text().parse::<IpAddr>() else {
        return;
    };
    if errors.len() > before {
        return;
    }
    if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        errors.push(at.invalid("must not be an IPv4-mapped IPv6 address"));
        return;
    }
    let link_multicast = match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let detail = match special(address) {
        Some(SpecialAddress::Unspecified) => format!("may not be unspecified ({address})"),
        Some(SpecialAddress::Loopback) => {
            "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
        }
        Some(SpecialAddress::LinkLocal) => {
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
        }
        _ if link_multicast => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
        }
        _ => return,
    };
    errors.push(at.invalid(detail));
}

/// Checks that the address is of this family (`IPv4` or `IPv6`).
pub(crate) fn check_family(errors: &mut Vec<FieldError>, at: &Field<'_, '_>, family: &str) {
    let fits = match (at.text().parse::<IpAddr>(), family) {
        (Ok(address), "IPv4") => address.is_ipv4(),
        (Ok(address), "IPv6") => address.is_ipv6(),
        // Another check reports this.
        _ => true,
    };
    if !fits {
        errors.push(at.invalid(format!("must be a valid {family} address")));
    }
}

/// Checks a port number, and the protocol of the port.
pub(crate) fn check_port_and_protocol(errors: &mut Vec<FieldError>, port: &Field<'_, '_>) {
    let number = port.get("port");
    for clause in names::port_number(number.int().unwrap_or_default()) {
        errors.push(FieldError::invalid(
            &number.path(),
            number.int().unwrap_or_default(),
            clause,
        ));
    }
    errors.check_one_of(&port.get("protocol"), PROTOCOLS);
}
