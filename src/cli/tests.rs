use super::*;
use crate::config::settings::Role;
use clap::CommandFactory;
use clap::error::ErrorKind;

fn parsed(args: &[&str]) -> Result<(Command, ConfigInput), ConfigExit> {
    parse(args.iter().map(OsString::from), &|_| None)
}

fn usage(args: &[&str]) -> Box<clap::Error> {
    match parsed(args) {
        Err(ConfigExit::Usage(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn command_definitions_are_valid() {
    Cli::command().debug_assert();
}

#[test]
fn serve_is_the_default_command() {
    for args in [
        &["sports-bet"][..],
        &["sports-bet", "serve"],
        &["sports-bet", "--http-port-odds=1"],
    ] {
        assert!(
            matches!(parsed(args), Ok((Command::Serve(_), _))),
            "{args:?}"
        );
    }
    for args in [
        &["sports-bet", "--role", "odds"][..],
        &["sports-bet", "serve", "--role", "odds"],
    ] {
        let Ok((Command::Serve(settings), _)) = parsed(args) else {
            panic!("{args:?}")
        };
        assert_eq!(settings.roles, [Role::Odds]);
    }
}

#[test]
fn help_lists_commands_and_default() {
    let help = usage(&["sports-bet", "--help"]);
    assert_eq!(help.kind(), ErrorKind::DisplayHelp);
    assert_eq!(help.exit_code(), 0);
    let text = help.to_string();
    for words in ["serve", "check-config", "Without a command, serve is run"] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(
        usage(&["sports-bet", "-V"]).kind(),
        ErrorKind::DisplayVersion
    );
}

#[test]
fn help_shows_variables_without_values() {
    for args in [
        &["sports-bet", "serve", "--help"][..],
        &["sports-bet", "--role", "odds", "--help"],
    ] {
        let text = usage(args).to_string();
        for variable in show::variables() {
            assert!(
                text.contains(&format!("[env: {variable}]")),
                "{variable} is not in\n{text}"
            );
        }
    }
}

#[test]
fn unknown_arguments_get_clap_suggestions() {
    let unknown = usage(&["sports-bet", "serv"]);
    assert_eq!(unknown.kind(), ErrorKind::InvalidSubcommand);
    assert!(unknown.to_string().contains("'serve'"), "{unknown}");
    let unknown = usage(&["sports-bet", "--http-port-ods", "1"]);
    assert_eq!(
        (unknown.kind(), unknown.exit_code()),
        (ErrorKind::UnknownArgument, 2)
    );
    assert!(
        unknown.to_string().contains("--http-port-odds"),
        "{unknown}"
    );
    assert_eq!(usage(&["sports-bet", "serve", "--role"]).exit_code(), 2);
}

#[test]
fn check_config_prints_settings_or_errors() {
    let run = |args: &[&str], environment: Environment<'_>| {
        let (command, given) = parse(args.iter().map(OsString::from), environment)?;
        let Command::CheckConfig(args) = command else {
            panic!("{command:?}")
        };
        args.output(given, &[])
    };
    let text = run(
        &["sports-bet", "check-config", "--http-port-odds", "1"],
        &|_| None,
    )
    .unwrap();
    assert!(
        text.contains("HTTP_PORT_ODDS=1                                 # flag\n"),
        "{text}"
    );
    let example = run(&["sports-bet", "check-config", "--example"], &|_| None).unwrap();
    assert_eq!(example, show::example());
    let environment = |name: &str| (name == "HTTP_PORT_ODDS").then(|| "abc".into());
    let stop = run(
        &[
            "sports-bet",
            "check-config",
            "--role=odds",
            "--ws-max-sessions",
            "-",
        ],
        &environment,
    );
    insta::assert_snapshot!(stop.unwrap_err(), @r##"
WS_MAX_SESSIONS (--ws-max-sessions): got "-", want a whole number from 1 to 10000000
HTTP_PORT_ODDS: got "abc", want a port number from 0 to 65535
ROLE (--role): got "odds", want "processor" in addition to "odds", or REDIS_URL: the embedded engines connect roles only within one process
ROLE (--role): got "odds", want "processor" in addition to "odds", or a PostgreSQL DATABASE_URL: the embedded engines connect roles only within one process
"##);
}
