//! Templates against what Go prints.

use proptest::prelude::*;

use super::*;

const DATA: &str = r#"{
  "Name": "/web", "Id": "0123456789abcdef", "Count": 3, "Zero": 0, "Ratio": 0.5, "On": true, "Off": false,
  "Nothing": null, "Empty": "", "Args": ["a", "b", "c"], "None": [],
  "Labels": {"z": "26", "a": "1", "dotted.key": "d"},
  "State": {"Status": "running", "Pid": 42},
  "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "90/tcp": null},
  "Mounts": [{"Source": "/x", "RW": true}, {"Source": "/y", "RW": false}]
}"#;

fn run(text: &str, missing: MissingKey) -> Result<String, String> {
    let data: Value = serde_json::from_str(DATA).unwrap();
    Template::parse("", text)
        .and_then(|template| template.execute(&data, Set::Values, missing))
        .map_err(|error| error.to_string())
}

fn check(text: &str, expected: &str) {
    assert_eq!(
        run(text, MissingKey::NoValue).as_deref(),
        Ok(expected),
        "{text}"
    );
}

fn fails(text: &str, expected: &str) {
    assert_eq!(
        run(text, MissingKey::Error),
        Err(expected.to_owned()),
        "{text}"
    );
}

#[test]
fn actions_print_values() {
    check("plain", "plain");
    check("{{.Name}}", "/web");
    check("{{ .State.Status }}:{{.State.Pid}}", "running:42");
    check("{{.Ratio}} {{.On}} {{.Zero}}", "0.5 true 0");
    check(
        "{{.Nothing}}|{{.Missing}}|{{.Missing.Deeper}}",
        "<no value>|<no value>|<no value>",
    );
    check("{{.Args}} {{.None}}", "[a b c] []");
    check("{{.Labels}}", "map[a:1 dotted.key:d z:26]");
    check(
        "{{.Mounts}}",
        "[map[RW:true Source:/x] map[RW:false Source:/y]]",
    );
    check(
        "{{.Ports}}",
        "map[80/tcp:[map[HostIp:0.0.0.0 HostPort:8080]] 90/tcp:<nil>]",
    );
    check(
        "{{\"q\\t\\x41\\u00e9\\101\"}} {{`r\\n`}} {{'a'}} {{1_000}} {{0x10}} {{-2}} {{1.5e3}} {{010}}",
        "q\tAéA r\\n 97 1000 16 -2 1500 8",
    );
    check("{{true}} {{false}}", "true false");
}

#[test]
fn space_is_trimmed_where_asked() {
    check("a {{- .Count -}} b", "a3b");
    check("a\n{{- /* note */ -}}\nb", "ab");
    check("{{/* note */}}x", "x");
    check("{{- 3 }}|{{ 3 -}} ", "3|3");
    check("{{-3}}", "-3");
}

#[test]
fn pipelines_feed_the_last_argument() {
    check("{{.Name | printf \"%s-%s\" \"x\"}}", "x-/web");
    check("{{.Args | len | printf \"%03d\"}}", "003");
    check("{{(index .Mounts 1).Source}}", "/y");
    check("{{(.State).Pid}}", "42");
    check("{{index .Labels \"dotted.key\"}}", "d");
    check("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080");
    check("{{with .State}}{{.Pid}}{{end}}", "42");
    check("{{ .Name | json }}", "\"/web\"");
}

#[test]
fn branches_follow_truth() {
    check(
        "{{if .On}}y{{else}}n{{end}}{{if .Off}}y{{else}}n{{end}}",
        "yn",
    );
    check("{{if .Empty}}a{{else if .Count}}b{{else}}c{{end}}", "b");
    check(
        "{{if .None}}y{{end}}{{if .Nothing}}y{{end}}{{if .Missing}}y{{end}}{{if .Zero}}y{{end}}",
        "",
    );
    check("{{with .Nothing}}x{{else}}none{{end}}", "none");
    check("{{with .Nothing}}x{{else with .Name}}{{.}}{{end}}", "/web");
    check(
        "{{if and .On (not .Off)}}1{{end}}{{if or .Off .On}}2{{end}}",
        "12",
    );
    check(
        "{{and 1 0 2}} {{or 0 \"\" \"x\"}} {{and .On .Name}}",
        "0 x /web",
    );
    check("{{or .On (index .None 5)}}", "true");
}

#[test]
fn ranges_go_over_everything() {
    check("{{range .Args}}{{.}},{{end}}", "a,b,c,");
    check(
        "{{range $i, $a := .Args}}{{$i}}={{$a}} {{end}}",
        "0=a 1=b 2=c ",
    );
    check("{{range $a := .Args}}{{$a}}{{end}}", "abc");
    check(
        "{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}",
        "a=1;dotted.key=d;z=26;",
    );
    check(
        "{{range .None}}x{{else}}empty{{end}}{{range .Nothing}}x{{else}}nil{{end}}",
        "emptynil",
    );
    check(
        "{{range .Args}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}",
        "a",
    );
    check(
        "{{range .Args}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}",
        "ac",
    );
    check("{{range 3}}{{.}}{{end}}", "012");
    check(
        "{{range .Mounts}}{{.Source}} {{$.Name}} {{end}}",
        "/x /web /y /web ",
    );
    check(
        "{{range $p, $c := .Ports}}{{$p}}->{{range $c}}{{.HostPort}}{{end}} {{end}}",
        "80/tcp->8080 90/tcp-> ",
    );
}

#[test]
fn variables_have_scope() {
    check("{{$x := 1}}{{$x}}{{$x = 2}}{{$x}}", "12");
    check(
        "{{$x := 1}}{{if true}}{{$x = 5}}{{$y := 3}}{{$y}}{{end}}{{$x}}",
        "35",
    );
    check("{{$x := 1}}{{range .Args}}{{$x = .}}{{end}}{{$x}}", "c");
    check("{{with $s := .State}}{{$s.Pid}}{{end}}", "42");
    check("{{$s := .State}}{{$s.Status | upper}}", "RUNNING");
}

#[test]
fn templates_call_templates() {
    check(
        "{{define \"T\"}}<{{.}}>{{end}}{{template \"T\" .Name}}",
        "</web>",
    );
    check(
        "{{define \"T\"}}[{{$}}]{{end}}{{range .Args}}{{template \"T\" .}}{{end}}",
        "[a][b][c]",
    );
    check("{{block \"B\" .Count}}n={{.}}{{end}}", "n=3");
    check("{{define \"T\"}}x{{end}}{{template \"T\"}}", "x");
}

#[test]
fn predefined_functions_do_as_in_go() {
    check(
        "{{eq .Count 3}} {{ne 1 2}} {{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge \"b\" \"a\"}}",
        "true true true true false true",
    );
    check("{{eq .Count 1 2 3}}", "true");
    check("{{eq .Nothing nil}}", "true");
    check(
        "{{len .Args}} {{len .Labels}} {{len .Name}} {{len .None}}",
        "3 3 4 0",
    );
    check(
        "{{slice .Id 0 12}} {{slice .Args 1}} {{slice .Id 2 4}}",
        "0123456789ab [b c] 23",
    );
    check(
        "{{print 1 2 \"a\" \"b\" 3}}|{{println 1 \"a\"}}",
        "1 2a b3|1 a\n".replace("a b", "ab").as_str(),
    );
    check(
        "{{printf \"%q %v %5.1f|%-4s|%x\" .Name .Args .Ratio \"a\" 255}}",
        "\"/web\" [a b c]   0.5|a   |ff",
    );
    check(
        "{{html \"<a&'>\"}} {{js \"it's\"}} {{urlquery \"a b&c\"}}",
        "&lt;a&amp;&#39;&gt; it\\'s a+b%26c",
    );
    check("{{not 0}} {{not .Name}}", "true false");
    check(
        "{{index .Args 1}} {{index .Labels \"nope\"}}",
        "b <no value>",
    );
}

#[test]
fn dockers_functions_are_there() {
    check(
        "{{json .Args}} {{json .Nothing}} {{json .State}}",
        r#"["a","b","c"] null {"Status":"running","Pid":42}"#,
    );
    check("{{json \"<&>\"}}", "\"<&>\"");
    check(
        "{{split \"a:b:c\" \":\"}} {{join .Args \"/\"}}",
        "[a b c] a/b/c",
    );
    check(
        "{{title \"hello big world\"}} {{lower \"ABC\"}} {{upper \"abc\"}}",
        "Hello Big World abc ABC",
    );
    check("{{pad \"x\" 1 2}}| {{pad \"\" 1 2}}|", " x  | |");
    check("{{truncate .Id 4}} {{truncate \"ab\" 4}}", "0123 ab");
    check("{{range split \"a,b\" \",\"}}({{.}}){{end}}", "(a)(b)");
    check("{{println .Name}}", "/web\n");
}

#[test]
fn headers_leave_texts_alone() {
    let data: Value = serde_json::from_str(r#"{"ID":"CONTAINER ID"}"#).unwrap();
    let template = Template::parse("", "{{truncate .ID 3}} {{lower .ID}} {{json .ID}}").unwrap();
    let header = template
        .execute(&data, Set::Headers, MissingKey::NoValue)
        .unwrap();
    assert_eq!(header, "CONTAINER ID CONTAINER ID CONTAINER ID");
}

#[test]
fn mistakes_at_run_time_are_told_as_go_tells_them() {
    fails(
        "{{.Foo}}",
        "template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\"",
    );
    fails(
        "{{.State.Foo}}",
        "template: :1:8: executing \"\" at <.State.Foo>: map has no entry for key \"Foo\"",
    );
    fails(
        "a\nb {{ .Foo }}",
        "template: :2:5: executing \"\" at <.Foo>: map has no entry for key \"Foo\"",
    );
    fails(
        "{{.Name.Foo}}",
        "template: :1:7: executing \"\" at <.Name.Foo>: can't evaluate field Foo in type interface {}",
    );
    fails(
        "{{.Nothing.Foo}}",
        "template: :1:10: executing \"\" at <.Nothing.Foo>: nil pointer evaluating interface {}.Foo",
    );
    fails(
        "{{index .Args 9}}",
        "template: :1:2: executing \"\" at <index .Args 9>: error calling index: index out of range: 9",
    );
    fails(
        "{{index .Nothing 1}}",
        "template: :1:2: executing \"\" at <index .Nothing 1>: error calling index: index of untyped nil",
    );
    fails(
        "{{eq 1 \"a\"}}",
        "template: :1:2: executing \"\" at <eq 1 \"a\">: error calling eq: incompatible types for comparison",
    );
    fails(
        "{{range .Name}}{{end}}",
        "template: :1:8: executing \"\" at <.Name>: range can't iterate over /web",
    );
    fails(
        "{{template \"x\"}}",
        "template: :1:11: executing \"\" at <{{template \"x\"}}>: template \"x\" not defined",
    );
    fails(
        "{{len 3}}",
        "template: :1:2: executing \"\" at <len 3>: error calling len: len of type int",
    );
    fails(
        "{{.Name 1}}",
        "template: :1:2: executing \"\" at <.Name>: Name is not a method but has arguments",
    );
    fails(
        "{{nil}}",
        "template: :1:2: executing \"\" at <nil>: nil is not a command",
    );
    fails(
        "{{1 2}}",
        "template: :1:2: executing \"\" at <1>: can't give argument to non-function 1",
    );
    fails(
        "{{define \"T\"}}{{template \"T\"}}{{end}}{{template \"T\"}}",
        "template: : exceeded maximum template depth (400)",
    );
}

#[test]
fn mistakes_in_the_text_are_told_as_go_tells_them() {
    fails("{{", "template: :1: unclosed action");
    fails("{{.Foo", "template: :1: unclosed action");
    fails("{{.Foo}", "template: :1: bad character U+007D '}'");
    fails("{{end}}", "template: :1: unexpected {{end}}");
    fails("{{else}}", "template: :1: unexpected {{else}}");
    fails("{{if .A}}", "template: :1: unexpected EOF");
    fails("{{if}}{{end}}", "template: :1: missing value for if");
    fails("{{}}", "template: :1: missing value for command");
    fails("{{foo}}", "template: :1: function \"foo\" not defined");
    fails("{{$x}}", "template: :1: undefined variable \"$x\"");
    fails("{{break}}", "template: :1: {{break}} outside {{range}}");
    fails("{{\"abc}}", "template: :1: unterminated quoted string");
    fails("{{`abc}}", "template: :1: unterminated raw quoted string");
    fails(
        "{{.A | 3}}",
        "template: :1: non executable command in pipeline stage 2",
    );
    fails("{{(.A}}", "template: :1: unclosed left paren");
    fails("{{.A)}}", "template: :1: unexpected right paren");
    fails("{{1a}}", "template: :1: bad number syntax: \"1a\"");
    fails("{{/* x }}", "template: :1: unclosed comment");
    fails(
        "{{template 3}}",
        "template: :1: unexpected \"3\" in template clause",
    );
    fails("{{\n.A\n!}}", "template: :3: unexpected \"!\" in operand");
    fails(
        "{{range .A}}{{else}}{{else}}{{end}}",
        "template: :1: expected end; found {{else}}",
    );
    fails("{{3.A}}", "template: :1: bad number syntax: \"3.A\"");
    fails(
        "{{true.A}}",
        "template: :1: unexpected . after term \"true\"",
    );
}

#[test]
fn rows_have_methods() {
    let row = Value::row(
        "*formatter.ContainerContext",
        [
            ("Names", Value::from("web")),
            (
                "Label",
                Value::method(|key| Value::from(format!("<{key}>"))),
            ),
        ],
    );
    let run = |text: &str| {
        Template::parse("", text)
            .and_then(|template| template.execute(&row, Set::Values, MissingKey::NoValue))
            .map_err(|error| error.to_string())
    };
    assert_eq!(run("{{.Names}} {{.Label \"k\"}}").unwrap(), "web <k>");
    assert_eq!(run("{{json .}}").unwrap(), "{\"Names\":\"web\"}");
    assert_eq!(
        run("{{.Foo}}").unwrap_err(),
        "template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.ContainerContext"
    );
}

#[test]
fn what_is_known_of_go_types_counts() {
    let value: Value =
        serde_json::from_str(r#"{"Config":{"Labels":{"a":"b"},"Cmd":null}}"#).unwrap();
    let value = value.know(&[
        ("Config.Labels", Zero::Texts),
        ("Config.Cmd", Zero::List),
        ("Config.StopSignal", Zero::Text),
        ("Config.Healthcheck", Zero::Nil),
    ]);
    let run = |text: &str| {
        Template::parse("", text)
            .and_then(|template| template.execute(&value, Set::Values, MissingKey::Error))
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        run("{{.Config.Cmd}} {{len .Config.Cmd}} {{json .Config.Cmd}}").unwrap(),
        "[] 0 null"
    );
    assert_eq!(
        run("<{{.Config.StopSignal}}>{{if .Config.Healthcheck}}x{{end}}").unwrap(),
        "<>"
    );
    assert_eq!(
        run("<{{index .Config.Labels \"zz\"}}>{{.Config.Labels.zz}}").unwrap(),
        "<><no value>"
    );
    assert!(run("{{.Config.Other}}").is_err());
}

#[test]
fn depth_is_bounded() {
    assert!(
        run(
            &format!("{{{{{}1{}}}}}", "(".repeat(5000), ")".repeat(5000)),
            MissingKey::Error
        )
        .is_err()
    );
    assert!(
        run(
            &format!("{}{}", "{{if 1}}".repeat(5000), "{{end}}".repeat(5000)),
            MissingKey::Error
        )
        .is_err()
    );
    assert!(
        run(
            &format!(
                "{}{}",
                "{{define \"a\"}}".repeat(5000),
                "{{end}}".repeat(5000)
            ),
            MissingKey::Error
        )
        .is_err()
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\{\\{|\\}\\}|[a-z.$|()\"'`:=, \n0-9-]|if |range |end|else|with |json |index |printf |\\\\|%){0,40}") {
        let _ = run(&text, MissingKey::Error);
    }

    #[test]
    fn no_action_makes_it_panic(text in "\\{\\{(\\.Args|\\.State|\\.Labels|\\.Name|\\.|\\||[0-9]| |index|slice|printf|\"%[0-9.*+# -]{0,4}[a-zA-Z]\"|len|pad|truncate|join|split|json|eq|\\(|\\)){1,12}\\}\\}") {
        let _ = run(&text, MissingKey::NoValue);
    }

    #[test]
    fn printf_never_panics(format in ".{0,20}", number in any::<i64>(), text in ".{0,8}") {
        let _ = print::printf(&format, &[Value::Int(number.into()), Value::from(text)]);
    }
}
