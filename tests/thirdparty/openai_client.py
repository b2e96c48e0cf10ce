"""The stock openai client at a freehold gateway. GATEWAY names its base address.

The gateway caps every request at 5 sat; the host asks 250 msat for an output
token; key `rich-key-of-the-test` has no budget of its own, `poor-key-of-the-test` 1 sat a day.
"""

import os
import time
import unittest

import openai

GATEWAY = os.environ["GATEWAY"]
QUESTION = [{"role": "user", "content": "Explain how paying per token works."}]


def client(key):
    return openai.OpenAI(base_url=GATEWAY, api_key=key, max_retries=0, timeout=120)


def wait_for_model(bound=120):
    """The listing appears once the host has tested itself; the client sees it at the gateway."""
    end = time.monotonic() + bound
    while time.monotonic() < end:
        try:
            models = client("rich-key-of-the-test").models.list().data
            if models:
                return models[0].id
        except openai.APIConnectionError:
            pass
        time.sleep(0.2)
    raise AssertionError("no model appeared at the gateway")


class Gateway(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = wait_for_model()

    def test_a_plain_answer_arrives_with_its_usage(self):
        answer = client("rich-key-of-the-test").chat.completions.create(
            model=self.model, messages=QUESTION, max_tokens=8, temperature=0
        )
        self.assertTrue(answer.choices[0].message.content.strip())
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 8)

    def test_a_streamed_answer_arrives_in_pieces_and_equals_the_plain_one(self):
        ask = dict(model=self.model, messages=QUESTION, max_tokens=12, temperature=0, seed=3)
        plain = client("rich-key-of-the-test").chat.completions.create(**ask).choices[0].message.content
        pieces = [
            chunk.choices[0].delta.content or ""
            for chunk in client("rich-key-of-the-test").chat.completions.create(stream=True, **ask)
            if chunk.choices
        ]
        self.assertGreater(len([piece for piece in pieces if piece]), 1)
        self.assertEqual("".join(pieces), plain)

    def test_a_budget_used_up_before_the_first_token_is_http_402_with_the_fix(self):
        with self.assertRaises(openai.APIStatusError) as raised:
            client("poor-key-of-the-test").chat.completions.create(
                model=self.model, messages=QUESTION, max_tokens=64, stream=True
            )
        self.assertEqual(raised.exception.status_code, 402)
        self.assertIn("budget", str(raised.exception).lower())

    def test_a_cap_used_up_after_the_first_token_is_an_error_that_the_client_raises(self):
        text = ""
        with self.assertRaises(openai.APIError) as raised:
            for chunk in client("rich-key-of-the-test").chat.completions.create(
                model=self.model, messages=QUESTION, max_tokens=120, temperature=0, stream=True
            ):
                text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        self.assertTrue(text, "some output came first")
        self.assertIn("max_cost", str(raised.exception) + str(raised.exception.body))

    def test_a_wrong_key_and_an_unknown_model_are_refused_clearly(self):
        with self.assertRaises(openai.AuthenticationError):
            client("no-such-key-at-all").models.list()
        with self.assertRaises(openai.APIStatusError) as raised:
            client("rich-key-of-the-test").chat.completions.create(model="no-such-model", messages=QUESTION, max_tokens=4)
        self.assertIn(raised.exception.status_code, (404, 503))


if __name__ == "__main__":
    unittest.main()
