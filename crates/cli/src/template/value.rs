//! What templates work on: JSON that remembers the order of its members and, where it is known,
//! the Go type it was printed from.
//!
//! Docker runs its templates over Go structs, so an absent member may still have a value: a nil
//! pointer, an empty text, a nil slice. [`Value::know`] adds that knowledge to plain JSON as hidden
//! members, which templates find and the function `json` does not print.

use std::fmt;
use std::rc::Rc;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A value of the template language.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// `null`, a nil interface or pointer, or nothing at all.
    #[default]
    Nil,
    /// A Go `bool`.
    Bool(bool),
    /// Any integer.
    Int(i128),
    /// A Go `float64`.
    Float(f64),
    /// A Go `string`.
    Text(Rc<str>),
    /// A slice.
    List(Rc<Vec<Value>>),
    /// A pointer of a Go struct that is nil: prints as `<nil>`.
    NilPointer,
    /// A slice that is nil: prints as empty, is `null` in JSON.
    NilList,
    /// A map that is nil.
    NilMap,
    /// A map or a struct.
    Object(Rc<Object>),
    /// A method that takes arguments, such as `.Label "key"`.
    Method(Method),
}

/// A method of a list row that takes one text.
#[derive(Clone)]
pub struct Method(Rc<dyn Fn(&str) -> Value>);

impl Method {
    /// Calls it.
    pub(super) fn call(&self, argument: &str) -> Value {
        (self.0)(argument)
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("method")
    }
}

/// What an object was in Go, as far as it shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// `map[string]any`, which is what JSON gives.
    #[default]
    Map,
    /// `map[string]string`: a missing key is an empty text.
    Texts,
    /// A struct of this type name: a missing member cannot be evaluated.
    Struct(&'static str),
}

/// Members in the order they came.
#[derive(Clone, Debug, Default)]
pub struct Object {
    pub(super) shape: Shape,
    pub(super) members: Vec<(Rc<str>, Value)>,
    /// Found by templates, absent in JSON.
    pub(super) hidden: Vec<(Rc<str>, Value)>,
}

/// Members of Docker's documents that Go calls otherwise than JSON does. Templates over Go's types
/// know the first.
const SPELLINGS: &[(&str, &str)] = &[
    ("ID", "Id"),
    // HostConfig and resources
    ("CPUShares", "CpuShares"),
    ("NanoCPUs", "NanoCpus"),
    ("CPUPeriod", "CpuPeriod"),
    ("CPUQuota", "CpuQuota"),
    ("CPURealtimePeriod", "CpuRealtimePeriod"),
    ("CPURealtimeRuntime", "CpuRealtimeRuntime"),
    ("CPUCount", "CpuCount"),
    ("CPUPercent", "CpuPercent"),
    ("DNS", "Dns"),
    ("DNSOptions", "DnsOptions"),
    ("DNSSearch", "DnsSearch"),
    ("HostIP", "HostIp"),
    // networks
    ("AuxAddress", "AuxiliaryAddresses"),
    // info
    ("CPUCfsPeriod", "CpuCfsPeriod"),
    ("CPUCfsQuota", "CpuCfsQuota"),
    ("BridgeNfIP6tables", "BridgeNfIp6tables"),
    ("HTTPProxy", "HttpProxy"),
    ("HTTPSProxy", "HttpsProxy"),
    // version
    ("APIVersion", "ApiVersion"),
    // events, descriptors and platforms
    ("ID", "id"),
    ("Status", "status"),
    ("From", "from"),
    ("Scope", "scope"),
    ("Time", "time"),
    ("TimeNano", "timeNano"),
    ("MediaType", "mediaType"),
    ("Digest", "digest"),
    ("Size", "size"),
    ("URLs", "urls"),
    ("Annotations", "annotations"),
    ("Platform", "platform"),
    ("ArtifactType", "artifactType"),
    ("OS", "os"),
    ("Architecture", "architecture"),
    ("Variant", "variant"),
    ("OSVersion", "os.version"),
];

impl Object {
    /// The member of this name, in JSON's or in Go's spelling.
    pub(super) fn find(&self, key: &str) -> Option<&Value> {
        let spelled = || {
            let mut others = SPELLINGS.iter().filter(|(go, _)| *go == key);
            others.find_map(|(_, json)| self.find_exactly(json))
        };
        self.find_exactly(key).or_else(|| match self.shape {
            Shape::Map => spelled(),
            Shape::Texts | Shape::Struct(_) => None,
        })
    }

    fn find_exactly(&self, key: &str) -> Option<&Value> {
        self.members
            .iter()
            .chain(&self.hidden)
            .find(|(name, _)| &**name == key)
            .map(|(_, value)| value)
    }

    /// As Go ranges over a map and prints it.
    pub(super) fn sorted(&self) -> Vec<(&Rc<str>, &Value)> {
        let mut members: Vec<_> = self.members.iter().map(|(k, v)| (k, v)).collect();
        members.sort_by(|a, b| a.0.cmp(b.0));
        members
    }
}

/// The Go zero value of a member that JSON leaves out or shows as `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zero {
    /// A nil pointer or interface.
    Nil,
    /// `false`.
    Bool,
    /// `0`.
    Int,
    /// `""`.
    Text,
    /// A nil slice.
    List,
    /// A nil map.
    Map,
    /// A map of texts; its missing keys are empty texts.
    Texts,
}

impl Zero {
    fn value(self) -> Value {
        match self {
            Self::Nil => Value::NilPointer,
            Self::Bool => Value::Bool(false),
            Self::Int => Value::Int(0),
            Self::Text => Value::text(""),
            Self::List => Value::NilList,
            Self::Map | Self::Texts => Value::NilMap,
        }
    }
}

impl Value {
    /// A text.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::Text(Rc::from(text.as_ref()))
    }

    /// Members that templates see as methods of a Go type with this name.
    pub fn row(
        kind: &'static str,
        members: impl IntoIterator<Item = (&'static str, Self)>,
    ) -> Self {
        Self::Object(Rc::new(Object {
            shape: Shape::Struct(kind),
            members: members.into_iter().map(|(k, v)| (Rc::from(k), v)).collect(),
            hidden: Vec::new(),
        }))
    }

    /// A map.
    pub fn map(members: impl IntoIterator<Item = (&'static str, Self)>) -> Self {
        Self::Object(Rc::new(Object {
            members: members.into_iter().map(|(k, v)| (Rc::from(k), v)).collect(),
            ..Object::default()
        }))
    }

    /// Adds a member at the end.
    pub fn push(&mut self, name: &str, value: Self) {
        if let Self::Object(object) = self {
            Rc::make_mut(object).members.push((Rc::from(name), value));
        }
    }

    /// A method of one text argument.
    pub fn method(body: impl Fn(&str) -> Self + 'static) -> Self {
        Self::Method(Method(Rc::new(body)))
    }

    /// Adds what is known of the Go types: for each dotted path, the zero value of that member. A
    /// `*` stands for every member or item.
    #[must_use]
    pub fn know(mut self, zeros: &[(&str, Zero)]) -> Self {
        for (path, zero) in zeros {
            self.know_one(path, *zero);
        }
        self
    }

    /// Adds a member that templates find and JSON does not show.
    pub fn add_hidden(&mut self, name: &str, value: Self) {
        if let Self::Object(object) = self {
            Rc::make_mut(object).hidden.push((Rc::from(name), value));
        }
    }

    /// The member at a dotted path.
    pub fn find(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |value, name| match value {
            Self::Object(object) => object.find(name),
            _ => None,
        })
    }

    /// The same, to change it.
    pub fn find_mut(&mut self, path: &str) -> Option<&mut Self> {
        path.split('.').try_fold(self, |value, name| match value {
            Self::Object(object) => Rc::make_mut(object)
                .members
                .iter_mut()
                .find(|(key, _)| &**key == name)
                .map(|(_, member)| member),
            _ => None,
        })
    }

    fn know_one(&mut self, path: &str, zero: Zero) {
        let (head, rest) = match path.split_once('.') {
            Some((head, rest)) => (head, Some(rest)),
            None => (path, None),
        };
        match self {
            Self::Object(object) => {
                let object = Rc::make_mut(object);
                if head == "*" {
                    for (_, member) in &mut object.members {
                        match rest {
                            Some(rest) => member.know_one(rest, zero),
                            None if matches!(member, Self::Nil) => *member = zero.value(),
                            None => {}
                        }
                    }
                    return;
                }
                let found = object
                    .members
                    .iter_mut()
                    .find(|(name, _)| &**name == head)
                    .map(|(_, member)| member);
                match (found, rest) {
                    (Some(member), Some(rest)) => member.know_one(rest, zero),
                    (Some(member @ Self::Nil), None) => *member = zero.value(),
                    (Some(Self::Object(member)), None) if zero == Zero::Texts => {
                        Rc::make_mut(member).shape = Shape::Texts;
                    }
                    (None, None) => object.hidden.push((Rc::from(head), zero.value())),
                    _ => {}
                }
            }
            Self::List(items) if head == "*" => {
                if let Some(rest) = rest {
                    for item in Rc::make_mut(items) {
                        item.know_one(rest, zero);
                    }
                }
            }
            _ => {}
        }
    }

    /// What `if` makes of it.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Nil | Self::NilPointer | Self::NilList | Self::NilMap => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Object(object) => {
                matches!(object.shape, Shape::Struct(_)) || !object.members.is_empty()
            }
            Self::Method(_) => true,
        }
    }

    /// The name Go's error messages give its type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nil | Self::NilPointer => "nil",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::List(_) | Self::NilList => "[]interface {}",
            Self::NilMap => "map[string]interface {}",
            Self::Object(object) => match object.shape {
                Shape::Map => "map[string]interface {}",
                Shape::Texts => "map[string]string",
                Shape::Struct(name) => name,
            },
            Self::Method(_) => "func(string) string",
        }
    }

    /// As Go's encoder prints it without escaping HTML; methods and hidden members are left out.
    ///
    /// Rows are the exception: Docker's formatter hands them to Go's marshaller, which escapes.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        match self {
            Self::Object(object) if matches!(object.shape, Shape::Struct(_)) => out
                .replace('<', "\\u003c")
                .replace('>', "\\u003e")
                .replace('&', "\\u0026"),
            _ => out,
        }
    }

    fn write_json(&self, out: &mut String) {
        match self {
            Self::Nil | Self::NilPointer | Self::NilList | Self::NilMap | Self::Method(_) => {
                out.push_str("null");
            }
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Int(value) => out.push_str(&value.to_string()),
            Self::Float(value) => out.push_str(&super::print::json_float(*value)),
            Self::Text(text) => write_json_text(out, text),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write_json(out);
                }
                out.push(']');
            }
            Self::Object(object) => {
                out.push('{');
                // List rows print their methods by name, as Docker's formatter does.
                let sorted = matches!(object.shape, Shape::Struct(_));
                let members: Vec<_> = if sorted {
                    object.sorted()
                } else {
                    object.members.iter().map(|(k, v)| (k, v)).collect()
                };
                let mut first = true;
                for (name, member) in members {
                    if matches!(member, Self::Method(_)) {
                        continue;
                    }
                    if !std::mem::take(&mut first) {
                        out.push(',');
                    }
                    write_json_text(out, name);
                    out.push(':');
                    member.write_json(out);
                }
                out.push('}');
            }
        }
    }
}

/// A JSON text as Go writes it: U+2028 and U+2029 are escaped even without HTML escaping.
pub(crate) fn write_json_text(out: &mut String, text: &str) {
    let plain = serde_json::Value::from(text).to_string();
    if plain.contains(['\u{2028}', '\u{2029}']) {
        out.push_str(
            &plain
                .replace('\u{2028}', "\\u2028")
                .replace('\u{2029}', "\\u2029"),
        );
    } else {
        out.push_str(&plain);
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<Rc<str>> for Value {
    fn from(text: Rc<str>) -> Self {
        Self::Text(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Self::Nil,
            Json::Bool(value) => Self::Bool(value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Self::Int(value.into()),
                (None, Some(value)) => Self::Int(value.into()),
                (None, None) => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::text(text),
            Json::Array(items) => Self::List(Rc::new(items.into_iter().map(Self::from).collect())),
            Json::Object(members) => Self::Object(Rc::new(Object {
                members: members
                    .into_iter()
                    .map(|(key, member)| (Rc::from(key), Self::from(member)))
                    .collect(),
                ..Object::default()
            })),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Int(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Int(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Float(value))
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::text(text))
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Nil)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Value::List(Rc::new(list)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
                let mut members: Vec<(Rc<str>, Value)> = Vec::new();
                while let Some((key, member)) = entries.next_entry::<String, Value>()? {
                    members.push((Rc::from(key), member));
                }
                Ok(Value::Object(Rc::new(Object {
                    members,
                    ..Object::default()
                })))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_order() {
        let text = r#"{"b":1,"a":[null,true,1.5,"<x>"],"c":{}}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(value.to_json(), text);
    }

    #[test]
    fn members_are_found_in_gos_spelling() {
        let json = r#"{"Id":"a","HostConfig":{"NanoCpus":1,"Dns":["b"]},"HttpProxy":""}"#;
        let value: Value = serde_json::from_str(json).unwrap();
        for path in [
            "ID",
            "Id",
            "HostConfig.NanoCPUs",
            "HostConfig.DNS",
            "HTTPProxy",
        ] {
            assert!(value.find(path).is_some(), "{path}");
        }
        for path in ["iD", "HostConfig.nanocpus"] {
            assert!(value.find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn known_zeros_are_found_and_not_printed() {
        let value: Value =
            serde_json::from_str(r#"{"State":{"Pid":1},"Binds":null,"Mounts":[{"A":1}]}"#).unwrap();
        let value = value.know(&[
            ("State.Health", Zero::Nil),
            ("Binds", Zero::List),
            ("Mounts.*.Name", Zero::Text),
        ]);
        assert_eq!(
            value.to_json(),
            r#"{"State":{"Pid":1},"Binds":null,"Mounts":[{"A":1}]}"#
        );
        let Value::Object(object) = &value else {
            panic!("an object")
        };
        assert!(matches!(object.find("Binds"), Some(Value::NilList)));
    }
}
