//! `POST /v1/chat/completions`, plain and as server-sent events.
//!
//! The status is decided by the first piece of the answer: until then nothing was
//! sent to the client, so a refusal is an HTTP status. Afterwards it is an error
//! event, which stock clients raise, and the stream ends.

use super::App;
use super::answer::Head;
use super::errors::ApiError;
use super::guard::{ChargedTo, check_choice};
use super::openai::ChatRequest;
use super::purchase::{Answer, Ending, Piece};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use protocol::refusal::{Code, Refusal};
use protocol::wire::order::Finish;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Answers a chat.
///
/// # Errors
/// As HTTP status with an error object, before the first token.
pub async fn create(
    State(app): State<Arc<App>>,
    Extension(ChargedTo(budget)): Extension<ChargedTo>,
    body: Result<Json<ChatRequest>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(request) = body?;
    let order = request.order(&budget)?;
    check_choice(app.keys(), &order)?;
    let permit = app.slot()?;
    let mut answer = Answer::start(&app, order).await?;
    let head = Head::new(&request.model, actors::clock::wall_now().secs());
    if !request.streams() {
        return whole(&app, answer, &head).await;
    }
    let first = match answer.next().await {
        Some(Piece::Failed(refusal)) => return Err(app.refused(refusal).await),
        Some(Piece::End(ending))
            if ending.finish == Finish::Budget && ending.counts.output_tokens == 0 =>
        {
            return Err(spent(&ending));
        }
        Some(first) => first,
        None => return Err(vanished().into()),
    };
    Ok(streamed(answer, head, first, request.wants_usage(), permit))
}

async fn whole(app: &App, mut answer: Answer, head: &Head) -> Result<Response, ApiError> {
    let (mut text, mut logprobs) = (String::new(), Vec::new());
    loop {
        match answer.next().await {
            Some(Piece::Text(more, attached)) => {
                text.push_str(&more);
                logprobs.extend(attached.logprobs);
            }
            Some(Piece::End(ending)) if ending.finish == Finish::Budget && text.is_empty() => {
                return Err(spent(&ending));
            }
            Some(Piece::End(ending)) => {
                return Ok(Json(head.whole(&text, &logprobs, &ending)).into_response());
            }
            Some(Piece::Failed(refusal)) => return Err(app.refused(refusal).await),
            None => return Err(vanished().into()),
        }
    }
}

struct Stream {
    answer: Answer,
    head: Head,
    usage: bool,
    ready: VecDeque<Event>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

fn streamed(
    answer: Answer,
    head: Head,
    first: Piece,
    usage: bool,
    permit: OwnedSemaphorePermit,
) -> Response {
    let opening = data(&head.opening().to_string());
    let mut stream = Stream {
        answer,
        head,
        usage,
        ready: VecDeque::from([opening]),
        ended: false,
        _permit: permit,
    };
    stream.take(first);
    let events = stream::unfold(stream, |mut stream| async move {
        while stream.ready.is_empty() && !stream.ended {
            let piece = stream
                .answer
                .next()
                .await
                .unwrap_or_else(|| Piece::Failed(vanished()));
            stream.take(piece);
        }
        let event = stream.ready.pop_front()?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response()
}

impl Stream {
    fn take(&mut self, piece: Piece) {
        match piece {
            Piece::Text(text, attached) if text.is_empty() && attached.logprobs.is_empty() => {}
            Piece::Text(text, attached) => self
                .ready
                .push_back(data(&self.head.text(&text, &attached.logprobs).to_string())),
            Piece::End(ending) if ending.finish == Finish::Budget => self.fail(&spent(&ending)),
            Piece::End(ending) => self.close(&ending),
            Piece::Failed(refusal) => self.fail(&refusal.into()),
        }
    }

    fn close(&mut self, ending: &Ending) {
        self.ended = true;
        self.ready
            .push_back(data(&self.head.closing(ending).to_string()));
        if self.usage {
            self.ready
                .push_back(data(&self.head.usage(ending).to_string()));
        }
        self.ready.push_back(data("[DONE]"));
    }

    fn fail(&mut self, error: &ApiError) {
        self.ended = true;
        self.ready.push_back(data(&error.event()));
    }
}

fn data(text: &str) -> Event {
    Event::default().data(text)
}

/// The cap on the order is used up: what was delivered was paid, no more was bought.
pub(super) fn spent(ending: &Ending) -> ApiError {
    let mut error = ApiError::new(
        402,
        format!(
            "the cap on this request is used up: {} paid for {} output tokens",
            ending.cost, ending.counts.output_tokens
        ),
        "raise `max_cost_msat` in the request's `freehold` field, or gateway.max_cost and budget.per_order in freehold.toml",
    );
    error.body.error.code = Some("budget_exhausted".to_owned());
    error
}

fn vanished() -> Refusal {
    Refusal::new(Code::Interrupted, "the purchase ended without a word")
}
