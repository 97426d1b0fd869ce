//! Writes `docs/configuration.md` from the table.

use std::fmt::Write;

use strandline_core::topic_config::KEYS;

use super::SETTINGS;
use crate::reference::assert_document;

const HEAD: &str = "\
# Configuration

`strandline server` needs nothing configured. Values come from, the later one winning:

1. the defaults below,
2. a TOML file, named by `--config FILE` or by the variable `STRANDLINE_CONFIG`,
3. environment variables `STRANDLINE_*`,
4. flags.

Unknown keys and unknown variables with that prefix are refused (those that begin with
`STRANDLINE_TEST_` are left alone). `strandline server --print-config` shows what is in force and
where each value came from, as a file that can be used again. Sizes take units (`64MiB`), time spans
too (`500ms`, `10m`). This page is generated from the code.

";

const TOPICS: &str = "\
## Topics

These can be set on each topic, with `strandline topic create --config` and `strandline topic alter
--config`, while the broker runs. In the table `[topic]` of the file, or as variables
`STRANDLINE_TOPIC_*` (in capitals, points becoming underscores), they are the defaults of this
broker for topics that do not say otherwise; only the default of `flush` is set above, as `flush`.

";

#[test]
fn the_reference_page_is_up_to_date() {
    let mut page = HEAD.to_owned();
    let mut table = None;
    for setting in SETTINGS {
        let prefix = setting.key.split_once('.').map_or("", |(prefix, _)| prefix);
        if table != Some(prefix) {
            table = Some(prefix);
            let title = match prefix {
                "" => "Broker".to_owned(),
                name => format!("Table `[{name}]`"),
            };
            let _ = write!(
                page,
                "{}## {title}\n\n| key | variable, flag | default | allowed | what it does |\n\
                 |---|---|---|---|---|\n",
                if prefix.is_empty() { "" } else { "\n" }
            );
        }
        let flag = setting
            .flag
            .map_or_else(String::new, |flag| format!(", `{flag}`"));
        let default = setting
            .default
            .map_or("not set".to_owned(), |text| format!("`{text}`"));
        let _ = writeln!(
            page,
            "| `{}` | `{}`{flag} | {default} | {} | {} |",
            setting.key,
            setting.variable(),
            setting.accepts(),
            setting.doc
        );
    }
    let _ = write!(
        page,
        "\n{TOPICS}| key | default | allowed | what it does |\n|---|---|---|---|\n"
    );
    for key in KEYS {
        let allowed = key.kind.allowed();
        let _ = writeln!(
            page,
            "| `{}` | `{}` | {} | {} |",
            key.name,
            key.default_text(),
            allowed.replace(" is allowed", ""),
            key.doc
        );
    }
    assert_document("docs/configuration.md", &page);
}
