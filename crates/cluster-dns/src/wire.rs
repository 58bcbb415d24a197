//! DNS messages: parses queries, writes responses of limited length. No input causes a panic.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record};

use crate::limits;

const HEADER_BYTES: usize = 12;
const QUERY_RESPONSE_BIT: u8 = 0x80;

/// A valid query.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    metadata: Metadata,
    pub(crate) query: Query,
    edns: Option<Edns>,
}

/// The contents of a response, without the fields copied from the query.
#[derive(Clone, Debug, Default)]
pub(crate) struct Response {
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

impl Response {
    /// A response with this code and no records.
    pub(crate) fn code(code: ResponseCode) -> Response {
        Response {
            code,
            ..Response::default()
        }
    }
}

/// A datagram or a TCP message after parsing.
pub(crate) enum ParsedMessage {
    /// A question.
    Request(Box<Request>),
    /// A query that gets an error response at once.
    Refused(Vec<u8>),
    /// A message without a response: it is malformed, or is a response itself (a response to a response would loop).
    Ignored,
}

/// Parses a message; responses and headers that are too short are ignored.
pub(crate) fn read(bytes: &[u8]) -> ParsedMessage {
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return ParsedMessage::Ignored;
    };
    if header[2] & QUERY_RESPONSE_BIT != 0 {
        return ParsedMessage::Ignored;
    }
    let Ok(message) = Message::from_vec(bytes) else {
        let id = u16::from_be_bytes([header[0], header[1]]);
        return refuse(&Message::error_msg(
            id,
            OpCode::Query,
            ResponseCode::FormErr,
        ));
    };
    let code = if message.metadata.op_code != OpCode::Query {
        Some(ResponseCode::NotImp)
    } else if message.queries.len() != 1 {
        Some(ResponseCode::FormErr)
    } else if message.version() > 0 {
        Some(ResponseCode::BADVERS)
    } else if message
        .queries
        .iter()
        .any(|query| query.query_class != DNSClass::IN)
    {
        Some(ResponseCode::Refused)
    } else {
        None
    };
    if let Some(code) = code {
        let mut refusal = Message::response(message.metadata.id, message.metadata.op_code);
        refusal.metadata = Metadata::response_from_request(&message.metadata);
        refusal.metadata.response_code = code;
        refusal.edns = message.edns.as_ref().map(|_| server_edns());
        refusal.queries = message.queries.into_iter().take(1).collect();
        return refuse(&refusal);
    }
    let Message {
        metadata,
        mut queries,
        edns,
        ..
    } = message;
    match queries.pop() {
        Some(query) => ParsedMessage::Request(Box::new(Request {
            metadata,
            query,
            edns,
        })),
        None => ParsedMessage::Ignored,
    }
}

fn refuse(message: &Message) -> ParsedMessage {
    message
        .to_vec()
        .map_or(ParsedMessage::Ignored, ParsedMessage::Refused)
}

fn server_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(u16::try_from(limits::UDP_BYTES_MAX).unwrap_or(u16::MAX));
    edns
}

impl Request {
    /// Whether the client requests DNSSEC records (the flag DO).
    pub(crate) fn wants_proof(&self) -> bool {
        self.edns
            .as_ref()
            .is_some_and(|edns| edns.flags().dnssec_ok)
    }

    /// Returns the maximum length of a response by UDP.
    pub(crate) fn udp_bytes_max(&self) -> usize {
        let requested = self
            .edns
            .as_ref()
            .map_or(0, |edns| usize::from(edns.max_payload()));
        requested.clamp(limits::UDP_BYTES_MIN, limits::UDP_BYTES_MAX)
    }

    /// Writes the response with at most `bytes_max` bytes.
    ///
    /// Removes records until the response fits: first additional records, then answers from the end, with the
    /// truncation flag. Clients without TCP thus get some answers.
    pub(crate) fn respond(&self, response: Response, bytes_max: usize) -> Option<Vec<u8>> {
        let mut message = Message::response(self.metadata.id, self.metadata.op_code);
        message.metadata = Metadata::response_from_request(&self.metadata);
        message.metadata.response_code = response.code;
        message.metadata.authoritative = response.authoritative;
        message.metadata.recursion_available = true;
        message.queries.push(self.query.clone());
        message.edns = self.edns.as_ref().map(|client_edns| {
            let mut edns = server_edns();
            edns.set_dnssec_ok(client_edns.flags().dnssec_ok);
            edns
        });
        message.answers = response.answers;
        message.authorities = response.authorities;
        message.additionals = response.additionals;
        let fits = |bytes: &Vec<u8>| bytes.len() <= bytes_max;
        let whole = message.to_vec().ok()?;
        if fits(&whole) {
            return Some(whole);
        }
        message.additionals.clear();
        let without = message.to_vec().ok()?;
        if fits(&without) {
            return Some(without);
        }
        message.metadata.truncation = true;
        message.authorities.clear();
        let all_answers = std::mem::take(&mut message.answers);
        let with = |count: usize| {
            let mut part = message.clone();
            part.answers = all_answers.iter().take(count).cloned().collect();
            part.to_vec().ok().filter(fits)
        };
        // A binary search for the largest number of answers that fit: `low` fits, `high` does not.
        let (mut low, mut high) = (0, all_answers.len() + 1);
        while high - low > 1 {
            let middle = low.midpoint(high);
            match with(middle) {
                Some(_) => low = middle,
                None => high = middle,
            }
        }
        with(low)
    }
}

/// Builds a record; `None` for a name that cannot be encoded.
pub(crate) fn record(name: &Name, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name.clone(), ttl, data)
}

/// Parses a name without a final dot.
pub(crate) fn name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Whether a message is the response to the query with that ID.
pub(crate) fn answers(message: &Message, id: u16, query: &Query) -> bool {
    let same = |echoed: &Query| {
        echoed.name.eq_ignore_root(&query.name) && echoed.query_type == query.query_type
    };
    message.metadata.message_type == MessageType::Response
        && message.metadata.id == id
        && message.queries.iter().all(same)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{RData, RecordType};

    use super::{ParsedMessage, Response, name, read, record};

    fn question() -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(
            name("web.default.svc").unwrap(),
            RecordType::A,
        ));
        message
    }

    fn code(received: ParsedMessage) -> Option<ResponseCode> {
        match received {
            ParsedMessage::Refused(bytes) => {
                Some(Message::from_vec(&bytes).unwrap().metadata.response_code)
            }
            _ => None,
        }
    }

    #[test]
    fn bad_packets_are_refused_or_ignored_and_never_panic() {
        let good = question().to_vec().unwrap();
        for end in 0..good.len() {
            let received = read(&good[..end]);
            assert!(!matches!(received, ParsedMessage::Request(_)), "{end}");
        }
        let mut seed = 0x2545_f491_u32;
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..4 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let [a, b, c, _] = seed.to_be_bytes();
                let at = usize::from(a) % bytes.len();
                bytes[at] = b;
                bytes.push(c);
            }
            if let ParsedMessage::Request(request) = read(&bytes) {
                assert!(request.respond(Response::default(), 512).is_some());
            }
        }
        // A name that points to itself.
        let mut looped = good[..12].to_vec();
        looped.extend([0xc0, 12, 0, 1, 0, 1]);
        assert_eq!(code(read(&looped)), Some(ResponseCode::FormErr));
    }

    #[test]
    fn only_plain_questions_are_answered() {
        let mut response = question();
        response.metadata.message_type = MessageType::Response;
        assert!(matches!(
            read(&response.to_vec().unwrap()),
            ParsedMessage::Ignored
        ));
        let mut none = question();
        none.queries.clear();
        assert_eq!(
            code(read(&none.to_vec().unwrap())),
            Some(ResponseCode::FormErr)
        );
        let mut chaos = question();
        chaos.queries[0].query_class = hickory_proto::rr::DNSClass::CH;
        assert_eq!(
            code(read(&chaos.to_vec().unwrap())),
            Some(ResponseCode::Refused)
        );
        let mut update = question();
        update.metadata.op_code = hickory_proto::op::OpCode::Update;
        assert!(!matches!(
            read(&update.to_vec().unwrap()),
            ParsedMessage::Request(_)
        ));
        let mut newer = question();
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_version(1);
        newer.set_edns(edns);
        assert!(matches!(
            read(&newer.to_vec().unwrap()),
            ParsedMessage::Refused(_)
        ));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said_so() {
        let ParsedMessage::Request(request) = read(&question().to_vec().unwrap()) else {
            panic!()
        };
        let record_of = |last: u8| {
            let address = RData::A(A([10, 244, 0, last].into()));
            record(&name("web.default.svc").unwrap(), 5, address)
        };
        let response = |answer_count: u8, additionals: u8| Response {
            answers: (0..answer_count).map(record_of).collect(),
            additionals: (0..additionals).map(record_of).collect(),
            ..Response::default()
        };
        let cut = |response| {
            let bytes = request.respond(response, 512).unwrap();
            assert!(bytes.len() <= 512);
            let message = Message::from_vec(&bytes).unwrap();
            (
                message.answers.len(),
                message.additionals.len(),
                message.metadata.truncation,
            )
        };
        assert_eq!(cut(response(10, 10)), (10, 10, false));
        assert_eq!(
            cut(response(20, 100)),
            (20, 0, false),
            "additional records may just go"
        );
        let (answer_count, _, truncated) = cut(response(200, 0));
        assert!(truncated && answer_count > 25, "{answer_count}");
    }
}
