//! Queries and replies as messages. Nothing here talks to anybody.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Seconds that an own name may be kept by who asked: a container that is replaced has another
/// address a moment later.
const OWN_TTL: u32 = 5;
/// Largest reply by UDP to who did not say that it takes more (RFC 1035).
const PLAIN_BYTES: usize = 512;
/// Largest reply by UDP to anybody: what passes everywhere in one piece (DNS flag day 2020).
const DATAGRAM_BYTES: u16 = 1232;
/// Largest message by TCP.
const STREAM_BYTES: usize = 65_535;
/// Bytes of a message's header.
const HEADER_BYTES: usize = 12;

/// What is known to who asks.
pub trait Lookup {
    /// Addresses behind a name in small letters; none where the name is not known.
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>>;
    /// The name of who has an address.
    fn name(&self, address: IpAddr) -> Option<String>;
    /// Whether anything outside may be asked.
    fn has_way_out(&self) -> bool;
}

/// What is to be done with a query.
#[derive(Debug)]
pub enum Verdict {
    /// This is the reply.
    Reply(Vec<u8>),
    /// Others are to be asked.
    Forward(Box<Message>),
    /// It is no query, and whoever replied to it might start an endless exchange.
    Ignore,
}

/// Answers a query from what is known here, or says that others are to be asked.
///
/// `datagram` tells UDP from TCP. With `qualified`, names without a dot are not for others: who
/// asks has set `ndots` and tries them with its search domains.
pub fn judge(query: &[u8], known: &impl Lookup, datagram: bool, qualified: bool) -> Verdict {
    const RESPONSE_BIT: u8 = 0x80;
    let Some(head) = query.first_chunk::<HEADER_BYTES>() else {
        return Verdict::Ignore;
    };
    if head[2] & RESPONSE_BIT != 0 {
        return Verdict::Ignore;
    }
    let Ok(query) = Message::from_vec(query) else {
        let id = u16::from_be_bytes([head[0], head[1]]);
        let refusal = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
        return match refusal.to_vec() {
            Ok(bytes) => Verdict::Reply(bytes),
            Err(_) => Verdict::Ignore,
        };
    };
    let reply = |code, answers| {
        let reply = respond(&query, code, answers);
        match encode(reply, limit(&query, datagram)) {
            Some(bytes) => Verdict::Reply(bytes),
            None => Verdict::Ignore,
        }
    };
    if query.metadata.op_code != OpCode::Query {
        return reply(ResponseCode::NotImp, Vec::new());
    }
    let [question] = query.queries.as_slice() else {
        return reply(ResponseCode::FormErr, Vec::new());
    };
    if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return reply(ResponseCode::BADVERS, Vec::new());
    }
    let name = question.name();
    let own = match question.query_class() {
        DNSClass::IN => own_records(name, question.query_type(), known),
        _ => None,
    };
    if let Some(records) = own {
        return reply(ResponseCode::NoError, records);
    }
    let single = name.num_labels() == 1 && qualified;
    let about_hosts = matches!(question.query_type(), RecordType::A | RecordType::AAAA);
    if !known.has_way_out() || single && about_hosts {
        return reply(ResponseCode::NXDomain, Vec::new());
    }
    Verdict::Forward(Box::new(query))
}

/// The records of a name that is known here: none of them where it has none of that type.
fn own_records(name: &Name, kind: RecordType, known: &impl Lookup) -> Option<Vec<Record>> {
    let record = |data| Record::from_rdata(name.clone(), OWN_TTL, data);
    if kind == RecordType::PTR {
        let asked = name.parse_arpa_name().ok()?;
        if asked.prefix_len() != asked.max_prefix_len() {
            return None;
        }
        let owner = known.name(asked.addr())?;
        let labels = owner.split('.').map(str::as_bytes);
        let mut target = Name::from_labels(labels).ok()?;
        target.set_fqdn(true);
        return Some(vec![record(RData::PTR(PTR(target)))]);
    }
    let addresses = known.addresses(&text(name)?)?;
    let records = addresses
        .into_iter()
        .filter_map(|address| match (kind, address) {
            (RecordType::A, IpAddr::V4(address)) => Some(record(RData::A(A(address)))),
            (RecordType::AAAA, IpAddr::V6(address)) => Some(record(RData::AAAA(AAAA(address)))),
            _ => None,
        });
    let mut records: Vec<Record> = records.collect();
    if records.len() > 1 {
        // Whoever takes the first meets each of them as often as the others. Rotating by a counter
        // would give the same to everybody who asks for both types of address.
        let start = usize::try_from(getrandom::u32().unwrap_or_default()).unwrap_or_default();
        let start = start % records.len();
        records.rotate_left(start);
    }
    Some(records)
}

/// A name as it is kept here: in small letters, without the last dot.
fn text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(64);
    for label in name.iter() {
        let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'.';
        if !label.iter().all(plain) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(
            label
                .iter()
                .map(|byte| char::from(byte.to_ascii_lowercase())),
        );
    }
    (!text.is_empty()).then_some(text)
}

/// A reply to a query.
pub(super) fn respond(query: &Message, code: ResponseCode, answers: Vec<Record>) -> Message {
    let mut reply = Message::new(
        query.metadata.id,
        MessageType::Response,
        query.metadata.op_code,
    );
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.checking_disabled = query.metadata.checking_disabled;
    reply.metadata.response_code = code;
    reply.queries.clone_from(&query.queries);
    reply.answers = answers;
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM_BYTES);
        reply.edns = Some(edns);
    }
    reply
}

/// How large a reply may be.
pub(super) fn limit(query: &Message, datagram: bool) -> usize {
    match (&query.edns, datagram) {
        (_, false) => STREAM_BYTES,
        (None, true) => PLAIN_BYTES,
        (Some(edns), true) => usize::from(edns.max_payload().min(DATAGRAM_BYTES)).max(PLAIN_BYTES),
    }
}

/// The bytes of a reply; without some of its answers, and saying so, where all of them do not fit.
pub(super) fn encode(mut reply: Message, limit: usize) -> Option<Vec<u8>> {
    loop {
        let bytes = reply.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        reply.metadata.truncation = true;
        reply.authorities.clear();
        reply.additionals.clear();
        let kept = reply.answers.len() * limit / bytes.len();
        if reply.answers.is_empty() {
            return None;
        }
        reply.answers.truncate(kept.min(reply.answers.len() - 1));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::str::FromStr as _;

    use hickory_proto::op::Query;
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Known {
        names: HashMap<&'static str, Vec<IpAddr>>,
        way_out: bool,
    }

    impl Lookup for Known {
        fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
            self.names.get(name).cloned()
        }

        fn name(&self, address: IpAddr) -> Option<String> {
            let mut names = self.names.iter();
            let found = names.find(|(_, addresses)| addresses.contains(&address));
            found.map(|(name, _)| format!("{name}.net"))
        }

        fn has_way_out(&self) -> bool {
            self.way_out
        }
    }

    fn known(way_out: bool) -> Known {
        let many = (1..=60)
            .map(|last| IpAddr::from([10, 0, 1, last]))
            .collect();
        Known {
            names: [
                ("db", vec![IpAddr::from([10, 0, 0, 2])]),
                ("my_app.web", vec![IpAddr::from([10, 0, 0, 3])]),
                ("many", many),
            ]
            .into(),
            way_out,
        }
    }

    fn query(name: &str, kind: RecordType) -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        query
    }

    fn reply(query: &Message, known: &Known) -> Option<Message> {
        match judge(&query.to_vec().unwrap(), known, true, false) {
            Verdict::Reply(bytes) => Some(Message::from_vec(&bytes).unwrap()),
            Verdict::Forward(_) => None,
            Verdict::Ignore => panic!("ignored"),
        }
    }

    #[track_caller]
    fn check(name: &str, kind: RecordType, code: ResponseCode, wanted: &[&str]) {
        let query = query(name, kind);
        let reply = reply(&query, &known(false)).unwrap();
        let records: Vec<String> = reply.answers.iter().map(|r| r.data.to_string()).collect();
        assert_eq!(records, wanted, "{reply:?}");
        assert_eq!(reply.metadata.response_code, code);
        assert_eq!(reply.metadata.id, 7);
        assert_eq!(reply.queries, query.queries);
        assert!(reply.metadata.recursion_available);
        assert!(
            reply
                .answers
                .iter()
                .all(|record| record.name == query.queries[0].name)
        );
    }

    #[test]
    fn own_names_have_addresses_and_addresses_names() {
        use ResponseCode::{NXDomain, NoError};
        check("db.", RecordType::A, NoError, &["10.0.0.2"]);
        check("DB.", RecordType::A, NoError, &["10.0.0.2"]);
        check("my_app.web.", RecordType::A, NoError, &["10.0.0.3"]);
        check("db.", RecordType::AAAA, NoError, &[]);
        check("db.", RecordType::MX, NoError, &[]);
        check(
            "2.0.0.10.in-addr.arpa.",
            RecordType::PTR,
            NoError,
            &["db.net."],
        );
        check("9.0.0.10.in-addr.arpa.", RecordType::PTR, NXDomain, &[]);
        check("0.10.in-addr.arpa.", RecordType::PTR, NXDomain, &[]);
        check("nobody.", RecordType::A, NXDomain, &[]);
        check("example.com.", RecordType::AAAA, NXDomain, &[]);
        check(".", RecordType::NS, NXDomain, &[]);
    }

    #[test]
    fn what_is_not_known_is_for_others_where_there_is_a_way_out() {
        assert!(reply(&query("example.com.", RecordType::A), &known(true)).is_none());
        assert!(reply(&query("db.", RecordType::A), &known(true)).is_some());
        let bytes = query("host.", RecordType::A).to_vec().unwrap();
        assert!(matches!(
            judge(&bytes, &known(true), true, true),
            Verdict::Reply(_)
        ));
        assert!(matches!(
            judge(&bytes, &known(true), true, false),
            Verdict::Forward(_)
        ));
    }

    #[test]
    fn a_reply_that_does_not_fit_says_so_and_fits_by_tcp() {
        let mut query = query("many.", RecordType::A);
        let cut = reply(&query, &known(false)).unwrap();
        assert!(cut.metadata.truncation && !cut.answers.is_empty());
        assert!(cut.to_vec().unwrap().len() <= PLAIN_BYTES);
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        query.set_edns(edns);
        let whole = reply(&query, &known(false)).unwrap();
        assert_eq!(
            (whole.answers.len(), whole.metadata.truncation),
            (60, false)
        );
        assert!(whole.edns.is_some());
        let bytes = query.to_vec().unwrap();
        let Verdict::Reply(bytes) = judge(&bytes, &known(false), false, false) else {
            panic!("no reply by TCP");
        };
        assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 60);
    }

    #[test]
    fn each_of_several_comes_first_at_times() {
        let firsts = (0..1000).map(|_| {
            let reply = reply(&query("many.", RecordType::A), &known(false)).unwrap();
            reply.answers[0].data.to_string()
        });
        let firsts: std::collections::BTreeSet<String> = firsts.collect();
        assert!(firsts.len() > 30, "{firsts:?}");
    }

    #[test]
    fn what_is_no_query_is_told_so_or_ignored() {
        let known = known(false);
        assert!(matches!(
            judge(&[0; 5], &known, true, false),
            Verdict::Ignore
        ));
        let mut answer = query("db.", RecordType::A);
        answer.metadata.message_type = MessageType::Response;
        let bytes = answer.to_vec().unwrap();
        assert!(matches!(
            judge(&bytes, &known, true, false),
            Verdict::Ignore
        ));
        let mut update = query("db.", RecordType::A);
        update.metadata.op_code = OpCode::Status;
        let told = reply(&update, &known).unwrap();
        assert_eq!(told.metadata.response_code, ResponseCode::NotImp);
        let mut newer = query("db.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        newer.set_edns(edns);
        let told = reply(&newer, &known).unwrap();
        // Sixteen, which has two names.
        assert_eq!(u16::from(told.metadata.response_code), 16);
        let mut cut = query("db.", RecordType::A).to_vec().unwrap();
        cut.truncate(15);
        let Verdict::Reply(bytes) = judge(&cut, &known, true, false) else {
            panic!("no reply to a query that is cut off");
        };
        assert_eq!(bytes[..2], [0, 7]);
    }

    proptest! {
        #[test]
        fn any_bytes_get_a_reply_that_can_be_read_or_none(bytes: Vec<u8>) {
            if let Verdict::Reply(reply) = judge(&bytes, &known(false), true, false) {
                prop_assert!(reply.len() <= usize::from(DATAGRAM_BYTES));
                prop_assert!(Message::from_vec(&reply).is_ok());
            }
        }
    }
}
