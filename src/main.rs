//! The `sports-bet` binary: runs the commands of the platform.

use std::io::Write;
use std::process::ExitCode;

use sports_bet_platform::cli::{self, Command, exit};
use sports_bet_platform::cli::{
    dlq, hold, key, ledger, migrate, replay, report, serve, settle, token, user, watch,
};
use sports_bet_platform::config;
use sports_bet_platform::config::Config;
use sports_bet_platform::config::engines::{self, StoreEngine};
use sports_bet_platform::config::input::{ConfigExit, ConfigInput};
use sports_bet_platform::config::names::{self, Doubtful};
use sports_bet_platform::config::settings::StoreSettings;
use sports_bet_platform::runtime::tls;
use sports_bet_platform::telemetry::log_format::LogFormat;
use sports_bet_platform::telemetry::logging;

fn main() -> ExitCode {
    let doubtful = match config::read_dotenv() {
        Ok(()) => names::doubtful(std::env::vars_os().map(|(name, _)| name)),
        Err(stop) => return stop.report(),
    };
    match prepare(&doubtful) {
        Ok(task) => task.run(&doubtful),
        Err(stop) => {
            // A misspelt name may be the reason for the error, so print these first.
            doubtful
                .iter()
                .for_each(|name| print_error(&format!("warning: {name}")));
            stop.report()
        }
    }
}

/// The command to run, with all its arguments and settings checked.
enum Task {
    Serve(Box<Config>),
    Replay(replay::ReplayArgs),
    Watch(watch::WatchArgs),
    Dlq(Box<dlq::DlqArgs>),
    Hold(Box<hold::HoldArgs>, StoreEngine),
    Settle(Box<settle::SettleArgs>, StoreEngine),
    Report(Box<report::ReportArgs>, StoreEngine),
    Key(Box<key::KeyArgs>, StoreEngine),
    User(Box<user::UserArgs>, StoreEngine),
    Token(Box<token::TokenArgs>),
    Ledger(Box<ledger::LedgerArgs>, StoreEngine),
    Migrate(StoreEngine),
    Print(String),
}

fn prepare(doubtful: &[Doubtful]) -> Result<Task, ConfigExit> {
    let (command, input) = cli::parse(std::env::args_os(), &cli::process_environment)?;
    Ok(match command {
        Command::Serve(settings) => Task::Serve(Box::new(Config::new(*settings, input)?)),
        Command::Replay(args) => Task::Replay(args),
        Command::Watch(args) => Task::Watch(args),
        Command::Dlq(args) => {
            args.check(&input)?;
            Task::Dlq(args)
        }
        Command::Hold(args) => {
            let engine = store_engine(args.store(), &input)?;
            Task::Hold(args, engine)
        }
        Command::Settle(args) => {
            let engine = store_engine(&args.store, &input)?;
            Task::Settle(args, engine)
        }
        Command::Report(args) => {
            let engine = store_engine(args.store(), &input)?;
            Task::Report(args, engine)
        }
        Command::Key(args) => {
            let engine = store_engine(args.store(), &input)?;
            Task::Key(args, engine)
        }
        Command::User(args) => {
            let engine = store_engine(args.store(), &input)?;
            Task::User(args, engine)
        }
        Command::Token(args) => {
            args.check(&input)
                .map_err(|wrong| ConfigExit::Wrong(vec![wrong]))?;
            Task::Token(args)
        }
        Command::Ledger(args) => {
            let engine = store_engine(&args.store, &input)?;
            Task::Ledger(args, engine)
        }
        Command::Migrate(args) => Task::Migrate(store_engine(&args.store, &input)?),
        Command::CheckConfig(args) => Task::Print(args.output(input, doubtful)?),
    })
}

fn store_engine(settings: &StoreSettings, input: &ConfigInput) -> Result<StoreEngine, ConfigExit> {
    engines::store(settings, input).map_err(|wrong| ConfigExit::Wrong(vec![wrong]))
}

impl Task {
    fn run(self, doubtful: &[Doubtful]) -> ExitCode {
        tls::install_provider();
        match self {
            Task::Print(text) => {
                cli::print(&text);
                ExitCode::SUCCESS
            }
            Task::Serve(config) => serve(config, doubtful),
            Task::Replay(args) => match logging::init(LogFormat::Text, "info", "replay".to_owned())
            {
                Ok(()) => finish(replay::serve(args), |failure| failed(failure, exit::FAILED)),
                Err(failure) => failed(&failure, exit::FAILED),
            },
            // Log errors only: the log lines appear next to output that programs parse.
            Task::Dlq(args) => match logging::init(LogFormat::Text, "error", "dlq".to_owned()) {
                Ok(()) => finish(
                    async move { dlq::run(&args, &mut std::io::stdout()).await },
                    |failure| failed(failure, failure.exit_code()),
                ),
                Err(failure) => failed(&failure, exit::FAILED),
            },
            Task::Hold(args, engine) => finish(
                async move { hold::run(&args, &engine, &mut std::io::stdout()) },
                |failure| failed(failure, failure.exit_code()),
            ),
            Task::Settle(args, engine) => finish(
                async move { settle::run(&args, &engine, &mut std::io::stdout()) },
                |failure| failed(failure, failure.exit_code()),
            ),
            Task::Report(args, engine) => finish(
                async move { report::run(&args, &engine, &mut std::io::stdout()) },
                |failure| failed(failure, failure.exit_code()),
            ),
            Task::Key(args, engine) => change_keys(*args, engine),
            Task::User(args, engine) => finish(
                async move { user::run(&args, &engine, &mut std::io::stdout()) },
                |failure| failed(failure, failure.exit_code()),
            ),
            Task::Token(args) => sign_token(*args),
            Task::Ledger(args, engine) => finish(
                async move { ledger::run(&args, &engine, &mut std::io::stdout()) },
                |failure| failed(failure, failure.exit_code()),
            ),
            Task::Migrate(engine) => {
                match logging::init(LogFormat::Text, "info", "migrate".to_owned()) {
                    Ok(()) => finish(async move { migrate::run(&engine) }, |failure| {
                        failed(failure, exit::FAILED)
                    }),
                    Err(failure) => failed(&failure, exit::FAILED),
                }
            }
            Task::Watch(args) => finish(watch::run(args), |failure| {
                failed(failure, failure.exit_code())
            }),
        }
    }
}

fn change_keys(args: key::KeyArgs, engine: StoreEngine) -> ExitCode {
    finish(
        async move {
            let (mut out, mut notes) = (std::io::stdout(), std::io::stderr());
            key::run(&args, &engine, &mut out, &mut notes)
        },
        |failure| failed(failure, failure.exit_code()),
    )
}

fn sign_token(args: token::TokenArgs) -> ExitCode {
    finish(
        async move { token::run(&args, &mut std::io::stdout()) },
        |failure| failed(failure, failure.exit_code()),
    )
}

fn serve(config: Box<Config>, doubtful: &[Doubtful]) -> ExitCode {
    let process = &config.settings.process;
    if let Err(failure) = logging::init(process.log_format, &process.rust_log, config.role_names())
    {
        return failed(&failure, exit::FAILED);
    }
    let warnings = doubtful
        .iter()
        .map(ToString::to_string)
        .chain(config.warnings());
    warnings.for_each(|warning| log::warn!("{warning}"));
    let format = process.log_format;
    // Before the async runtime starts, and finished after it has ended.
    let traces = match serve::start_traces(&config) {
        Ok(traces) => traces,
        Err(failure) => return failed(&failure, exit::FAILED),
    };
    let mut is_cut_off = false;
    let exit_code = finish(serve::run(*config), |failure| {
        is_cut_off = matches!(failure, serve::ServeError::CutOff);
        match format {
            // A program that parses the log must see this line too.
            LogFormat::Json if log::log_enabled!(log::Level::Error) => {
                log::error!("{failure}");
                ExitCode::from(exit::FAILED)
            }
            _ => failed(failure, exit::FAILED),
        }
    });
    // A second signal ends the process at once.
    if let Some(traces) = traces.filter(|_| !is_cut_off) {
        traces.finish();
    }
    exit_code
}

fn finish<E: std::error::Error>(
    work: impl Future<Output = Result<(), E>>,
    on_failure: impl FnOnce(&E) -> ExitCode,
) -> ExitCode {
    match actix::System::new().block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => on_failure(&failure),
    }
}

fn failed(failure: &dyn std::error::Error, code: u8) -> ExitCode {
    print_error(&failure.to_string());
    ExitCode::from(code)
}

/// Writes a line to standard error. A failure is ignored, because nothing more can be done;
/// `eprintln` would panic.
fn print_error(text: &str) {
    let _ = writeln!(std::io::stderr(), "sports-bet: {text}");
}
