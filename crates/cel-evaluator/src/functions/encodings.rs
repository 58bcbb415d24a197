//! Base64 and JSON pointers.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::call::Style::Global;
use crate::call::{FunctionResult, Table, failed, no_overload, nominal, reading};
use crate::meter::Meter;
use crate::value::Value;

pub(super) const TABLE: Table = &[
    ("base64.decode", Global, decode, nominal),
    ("base64.encode", Global, encode, nominal),
    ("jsonpatch.escapeKey", Global, escape_key, reading),
];

/// The padding may be absent, as in cel-go.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn decode(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text)] => {
            meter.work(text.len())?;
            let bytes = BASE64.decode(&**text);
            let bytes = bytes.map_err(|_| failed("illegal base64 data"))?;
            Ok(Value::bytes(&bytes))
        }
        _ => no_overload(),
    }
}

fn encode(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::Bytes(bytes)] => {
            meter.work(bytes.len() * 2)?;
            Ok(Value::text(&BASE64.encode(bytes)))
        }
        _ => no_overload(),
    }
}

/// A map key as a segment of a path in a patch.
fn escape_key(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(key)] => {
            meter.work(key.len() * 2)?;
            Ok(Value::text(&key.replace('~', "~0").replace('/', "~1")))
        }
        _ => no_overload(),
    }
}
