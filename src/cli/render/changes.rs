//! What differs between two documents, for people.

use serde_json::Value;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `-` before, `+` after.
    pub mark: char,
    /// Where, in the manner of `service`.
    pub path: String,
    /// What.
    pub value: String,
}

/// The differences between two documents of a DID, in the order of the members: what is gone before what is new.
/// Entries of arrays belong together when they have one `id`.
#[must_use]
pub fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let own = after.get("id").and_then(Value::as_str).unwrap_or_default();
    let mut found = Differences {
        own,
        list: Vec::new(),
    };
    found.compare("", before, after);
    found.list
}

struct Differences<'a> {
    /// The DID, which is left out of the ids that begin with it.
    own: &'a str,
    list: Vec<Difference>,
}

impl Differences<'_> {
    fn compare(&mut self, path: &str, before: &Value, after: &Value) {
        match (before, after) {
            _ if before == after => {}
            (Value::Object(old), Value::Object(new)) => {
                for (name, value) in old {
                    let inner = join(path, name);
                    match new.get(name) {
                        Some(other) => self.compare(&inner, value, other),
                        None => self.put('-', &inner, value),
                    }
                }
                for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                    self.put('+', &join(path, name), value);
                }
            }
            (Value::Array(old), Value::Array(new)) => self.compare_entries(path, old, new),
            _ => {
                self.put('-', path, before);
                self.put('+', path, after);
            }
        }
    }

    fn compare_entries(&mut self, path: &str, old: &[Value], new: &[Value]) {
        let listed = self.list.len();
        for value in old {
            match new.iter().find(|other| same_entry(value, other)) {
                Some(other) => {
                    let id = value.get("id").and_then(Value::as_str).unwrap_or_default();
                    self.compare(&format!("{path}[{}]", self.shorten(id)), value, other);
                }
                None => self.put('-', path, value),
            }
        }
        for value in new {
            if !old.iter().any(|other| same_entry(other, value)) {
                self.put('+', path, value);
            }
        }
        // The same entries: another order, or one of them repeated.
        if self.list.len() == listed {
            self.put('-', path, &Value::Array(old.to_vec()));
            self.put('+', path, &Value::Array(new.to_vec()));
        }
    }

    fn put(&mut self, mark: char, path: &str, value: &Value) {
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.list.push(Difference {
            mark,
            path: path.to_owned(),
            value: self.shorten(&text),
        });
    }

    fn shorten(&self, text: &str) -> String {
        if self.own.is_empty() {
            return text.to_owned();
        }
        text.replace(&format!("{}#", self.own), "#")
    }
}

fn same_entry(one: &Value, other: &Value) -> bool {
    let id = |value: &Value| value.get("id").and_then(Value::as_str).map(str::to_owned);
    one == other || id(one).is_some_and(|id_of_one| id(other) == Some(id_of_one))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(before: &Value, after: &Value) -> Vec<String> {
        differences(before, after)
            .into_iter()
            .map(|d| format!("{} {} {}", d.mark, d.path, d.value))
            .collect()
    }

    #[test]
    fn what_is_gone_and_what_is_new() {
        let before = json!({ "id": "did:x:y", "authentication": ["did:x:y#a", "did:x:y#b"],
            "service": [{ "id": "did:x:y#s", "type": "A", "serviceEndpoint": "x:" },
                        { "id": "did:x:y#t", "type": "B" }] });
        let mut after = before.clone();
        after["authentication"] = json!(["did:x:y#c", "did:x:y#b"]);
        after["service"] = json!([{ "id": "did:x:y#s", "type": "C", "serviceEndpoint": "x:" }]);
        after["deactivated"] = json!(true);
        assert_eq!(
            lines(&before, &after),
            [
                "- authentication #a",
                "+ authentication #c",
                "- service[#s].type A",
                "+ service[#s].type C",
                r##"- service {"id":"#t","type":"B"}"##,
                "+ deactivated true",
            ]
        );
        assert!(lines(&before, &before).is_empty());
    }

    #[test]
    fn another_order_or_type_is_shown_whole() {
        let one = json!({ "a": ["x", "y"], "b": 1 });
        let other = json!({ "a": ["y", "x"], "b": "1" });
        assert_eq!(
            lines(&one, &other),
            [r#"- a ["x","y"]"#, r#"+ a ["y","x"]"#, "- b 1", "+ b 1"]
        );
    }
}
