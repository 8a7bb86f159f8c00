"""Tokens are held to PROTOCOL.md, "The token", and to what DESIGN.md knows of PyJWT.

Whatever a client sends for a token, it gets a grant or :exc:`~wsd.errors.TokenError`, whose text goes to the log and
holds nothing of the token or the key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from wsd.auth.grant import EVERYTHING, Authenticator, Grant, OpenAuthenticator
from wsd.auth.jwt import MAX_LIFETIME, JWTAuthenticator
from wsd.errors import TokenError

MARK = "wQ9-xK_7"  # stands in everything that must not be repeated
KEY = f"{MARK}-a-secret-of-more-than-32-bytes".encode()
SOON = 2_000_000_000  # an exp in the year 2033
relaxed = settings(deadline=None)

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PRIVATE_KEYS: dict[str, Any] = {
    "RS256": RSA,
    "PS256": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def public_key(algorithm: str) -> bytes:
    pem: bytes = PRIVATE_KEYS[algorithm].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def verifier(**options: Any) -> JWTAuthenticator:
    return JWTAuthenticator(KEY, ["HS256"], **options)


def part(content: str | bytes) -> str:
    """One of the three parts of a token."""
    data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(claims: str | bytes, header: str | bytes = '{"alg":"HS256"}', key: bytes = KEY) -> str:
    """Sign what no library would."""
    signed = f"{part(header)}.{part(claims)}"
    return f"{signed}.{part(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def token(**claims: object) -> str:
    """A good token, but for these claims; ``None`` leaves one out."""
    chosen = {"exp": SOON, "sub": "ann"} | claims
    return by_hand(json.dumps({name: claim for name, claim in chosen.items() if claim is not None}))


def refusal(token: str, authenticator: JWTAuthenticator | None = None) -> str:
    """The reason why a token is refused."""
    with pytest.raises(TokenError) as caught:
        (authenticator or verifier()).verify(token)
    assert caught.value.__cause__ is None  # a traceback would show the token
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    reason = str(caught.value)
    assert MARK not in reason
    assert reason.isprintable()
    assert len(reason) < 100
    return reason


# What is granted.


def test_a_good_token_is_a_grant() -> None:
    good = jwt.encode({"exp": SOON, "sub": "ann"}, KEY, algorithm="HS256")
    assert verifier().verify(good) == verifier().verify(token()) == Grant("ann", frozenset(), ("",), SOON)
    assert verifier().verify(token(topics=["news", "chat:*"])) == Grant("ann", frozenset(["news"]), ("chat:",), SOON)
    assert verifier().verify(token(sub=None)).subject == ""


@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
def test_public_keys_of_each_family(algorithm: str) -> None:
    signed = jwt.encode({"exp": SOON}, PRIVATE_KEYS[algorithm], algorithm=algorithm)
    assert JWTAuthenticator(public_key(algorithm), [algorithm]).verify(signed).expires_at == SOON
    for other in PRIVATE_KEYS.keys() - {algorithm}:
        assert "alg" in refusal(signed, JWTAuthenticator(public_key(other), [other]))
    head, _, signature = signed.rpartition(".")
    refusal(f"{head}.{signature[4:]}AAAA", JWTAuthenticator(public_key(algorithm), [algorithm]))


def test_a_token_may_name_any_of_several_algorithms() -> None:
    authenticator = JWTAuthenticator(public_key("RS256"), ["RS256", "PS256"])
    for algorithm in ("RS256", "PS256"):
        authenticator.verify(jwt.encode({"exp": SOON}, RSA, algorithm=algorithm))


@pytest.mark.parametrize("exp", [10**10, 10**400, 1e300])
def test_a_far_expiry_is_bounded_before_it_reaches_a_timer(exp: float) -> None:
    expires_at = verifier().verify(token(exp=exp)).expires_at
    assert expires_at == pytest.approx(time.time() + MAX_LIFETIME, abs=60)


@pytest.mark.parametrize("exp", [SOON, SOON + 0.5])
def test_a_near_expiry_is_taken_as_it_is(exp: float) -> None:
    assert verifier().verify(token(exp=exp)).expires_at == exp


# What is refused.


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": None}, "the claim exp is missing"),
        ({"exp": 0}, "expired"),
        ({"exp": -5}, "expired"),
        ({"exp": -(10**400)}, "expired"),
        ({"exp": 1_000_000_000.5}, "expired"),
        ({"exp": str(SOON)}, "exp is not a number of seconds"),
        ({"exp": True}, "exp is not a number"),
        ({"exp": [SOON]}, "exp is not a number"),
        ({"exp": {}}, "exp is not a number"),
        ({"exp": "soon"}, "exp is not a number"),
        ({"nbf": SOON}, "becomes valid in"),
        ({"nbf": "soon"}, "nbf is not a number"),
        ({"nbf": "5"}, "nbf is not a number"),
        ({"nbf": False}, "nbf is not a number"),
        ({"nbf": 10**400}, "becomes valid in"),
        ({"iat": []}, "iat is not a number"),
        ({"iat": "5"}, "iat is not a number"),
        ({"sub": 5}, "the claim sub is not a string"),
        ({"sub": [MARK]}, "the claim sub is not a string"),
        ({"jti": 5}, "the claim jti is not a string"),
        ({"jti": {MARK: 1}}, "the claim jti is not a string"),
        ({"aud": "other"}, "audience"),
        ({"aud": ["other"]}, "audience"),
        ({"aud": {}, "exp": 0}, "expired"),
        ({"topics": "news"}, "not a list of strings"),
        ({"topics": ["news", 5]}, "not a list of strings"),
        ({"topics": {"news": True}}, "not a list of strings"),
        ({"topics": [["news"]]}, "not a list of strings"),
        ({"topics": True}, "not a list of strings"),
        ({"topics": 0}, "not a list of strings"),
    ],
    ids=str,
)
def test_claims_that_grant_nothing(claims: dict[str, object], words: str) -> None:
    assert words in refusal(token(**claims))


@pytest.mark.parametrize(
    "claims",
    [
        '{"exp":NaN}',
        '{"exp":Infinity}',
        '{"exp":-Infinity}',
        '{"exp":1e999}',
        '{"exp":null}',
        '{"exp":' + "9" * 5000 + "}",
        '{"exp":2000000000,"nbf":Infinity}',
        '{"exp":2000000000,"nbf":NaN}',
        '{"exp":2000000000,"iat":1e999}',
        '{"exp":2000000000,"sub":5}',
        '{"exp":2000000000,"sub":null}',
        '{"exp":2000000000,"jti":5}',
        '{"exp":2000000000,"topics":null}',
        '[{"exp":2000000000}]',
        '"exp"',
        "null",
        "",
        "exp",
        '{"exp":2000000000',
        b'{"exp":2000000000,"sub":"\xff"}',
        '{"exp":2000000000,"x":' + "[" * 30_000 + "]" * 30_000 + "}",
    ],
    ids=lambda claims: str(claims)[:40],
)
def test_claims_that_are_not_even_right_in_form_although_they_are_signed(claims: str | bytes) -> None:
    refusal(by_hand(claims))


@pytest.mark.parametrize(
    "header",
    [
        "{}",
        '{"alg":null}',
        '{"alg":["HS256"]}',
        '{"alg":{}}',
        '{"alg":5}',
        '{"alg":"none"}',
        '{"alg":"NONE"}',
        '{"alg":""}',
        '{"alg":"hs256"}',
        '{"alg":"HS512"}',
        '{"alg":"RS256"}',
        f'{{"alg":"{MARK}"}}',
        f'{{"alg":"HS256","kid":["{MARK}"]}}',
        f'{{"alg":"HS256","crit":["{MARK}"]}}',
        '{"alg":"HS256","crit":["b64"],"b64":false}',
        '{"alg":"HS256","b64":false}',
        '["alg"]',
        "null",
        "",
        '{"alg":"\ud800"}',
        "[" * 40_000 + "]" * 40_000,
        '{"alg":' + "9" * 5000 + "}",
    ],
    ids=lambda header: header[:40],
)
def test_headers_that_are_refused_although_the_signature_is_right(header: str) -> None:
    refusal(by_hand(json.dumps({"exp": SOON, "sub": MARK}), header))


def test_a_signature_of_another_key_or_of_other_claims_is_refused() -> None:
    assert "the signature does not fit" in refusal(by_hand('{"exp":2000000000}', key=KEY[1:]))
    header, claims, signature = token(topics=[]).split(".")
    assert "the signature does not fit" in refusal(f"{header}.{part(json.dumps({'exp': SOON}))}.{signature}")
    assert "the signature is missing" in refusal(f"{header}.{claims}.")


def test_an_unsigned_token_is_refused() -> None:
    refusal(jwt.encode({"exp": SOON}, "", algorithm="none"))
    refusal(jwt.encode({"exp": SOON}, "", algorithm="none"), JWTAuthenticator(public_key("RS256"), ["RS256"]))


@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
def test_the_public_key_is_not_taken_for_a_shared_secret(algorithm: str) -> None:
    pem = public_key(algorithm)
    for key in (pem, pem.strip()):
        forged = by_hand('{"exp":2000000000}', key=key)
        assert "alg" in refusal(forged, JWTAuthenticator(pem, [algorithm]))


@pytest.mark.parametrize(
    "rubbish",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        MARK,
        "\ud800",
        "\udfff.\udfff.\udfff",
        token() + "\ud800",
        token() + "\n",
        f"Bearer {token()}",
        token().replace(".", ".."),
        "A" * 65536,
        "." * 65536,
        "=" * 65536,
        "é" * 32768,
        f"{part(MARK)}.{part(MARK)}.{part(MARK)}",
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_rubbish_is_refused(rubbish: str) -> None:
    refusal(rubbish)


def test_a_public_key_does_not_serve_as_a_shared_secret() -> None:
    with pytest.raises(jwt.InvalidKeyError):
        JWTAuthenticator(public_key("RS256"), ["HS256"])


# Audience, issuer, clocks.


@pytest.mark.parametrize(
    ("options", "claims", "words"),
    [
        ({"audience": "wsd"}, {"aud": "wsd"}, ""),
        ({"audience": "wsd"}, {"aud": ["other", "wsd"]}, ""),
        ({"audience": "wsd"}, {}, "the claim aud is missing"),
        ({"audience": "wsd"}, {"aud": "wsd2"}, "audience (aud) is another"),
        ({"audience": "wsd"}, {"aud": "WSD"}, "audience (aud) is another"),
        ({"audience": "wsd"}, {"aud": []}, "the claim aud is missing"),
        ({"audience": "wsd"}, {"aud": ["wsd", 5]}, "neither a string nor a list"),
        ({"audience": "wsd"}, {"aud": {"wsd": 1}}, "neither a string nor a list"),
        ({"audience": "wsd"}, {"aud": MARK}, "audience (aud) is another"),
        ({}, {"iss": "anyone"}, ""),
        ({"issuer": "me"}, {"iss": "me"}, ""),
        ({"issuer": "me"}, {}, "the claim iss is missing"),
        ({"issuer": "me"}, {"iss": "m"}, "issuer (iss) is another"),
        ({"issuer": "me"}, {"iss": ["me"]}, "the claim iss is not a string"),
        ({"issuer": "me"}, {"iss": MARK}, "issuer"),
        ({"leeway": 60.0}, {"exp": 30.0}, "expired"),
        ({"require_topics": True}, {}, "the claim topics is missing"),
        ({"require_topics": True}, {"topics": []}, ""),
        ({"require_topics": True}, {"topics": ["*"]}, ""),
    ],
    ids=str,
)
def test_what_is_configured_is_checked(options: dict[str, Any], claims: dict[str, object], words: str) -> None:
    signed = token(**claims)
    if words:
        assert words in refusal(signed, verifier(**options))
    else:
        verifier(**options).verify(signed)


@pytest.mark.parametrize(("claim", "offset"), [("exp", -1), ("nbf", 1)])
def test_the_leeway_forgives_clocks_that_differ(claim: str, offset: int) -> None:
    moment = round(time.time()) + offset * 30
    refusal(token(**{claim: moment}))
    refusal(token(**{claim: moment}), verifier(leeway=5))
    grant = verifier(leeway=120).verify(token(**{claim: moment}))
    assert grant.expires_at == (moment if claim == "exp" else SOON) + 120


@pytest.mark.parametrize("ahead", [0.3, 5, 86_400, 10**400])
def test_a_token_may_be_issued_in_the_future(ahead: float) -> None:
    verifier().verify(token(iat=round(time.time()) + ahead))


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": 994.5}, "expired 5.5 s ago (exp; jwt_leeway is 5)"),
        ({"exp": 995}, "expired 5.0 s ago"),
        ({"exp": 995.1}, ""),
        ({"exp": 1005, "nbf": 1005}, ""),
        ({"exp": 2000, "nbf": 1005.1}, "becomes valid in 5.1 s (nbf; jwt_leeway is 5)"),
        ({"exp": 2000, "nbf": 1000.3, "iat": 1000.3}, ""),
    ],
    ids=str,
)
def test_the_log_says_by_how_much_clocks_differ(claims: dict[str, object], words: str) -> None:
    authenticator = verifier(leeway=5, wall=lambda: 1000.0)
    if words:
        assert words in refusal(token(**claims), authenticator)
    else:
        assert authenticator.verify(token(**claims)).expires_at == pytest.approx(float(str(claims["exp"])) + 5)


# What the client and the log are told.


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": 0}, "expired"),
        ({"nbf": SOON}, "not_yet_valid"),
        ({"aud": None}, "wrong_audience"),
        ({"aud": "other"}, "wrong_audience"),
        ({"aud": 5}, "wrong_audience"),
        ({"iss": None}, "wrong_issuer"),
        ({"iss": "other"}, "wrong_issuer"),
        ({"exp": None}, "wrong_claims"),
        ({"exp": "1"}, "wrong_claims"),
        ({"iat": "1"}, "wrong_claims"),
        ({"jti": 1}, "wrong_claims"),
        ({"topics": None}, "wrong_claims"),
        ({"topics": 1}, "wrong_claims"),
    ],
    ids=str,
)
def test_only_who_has_a_signed_token_learns_what_is_wrong_with_it(claims: dict[str, object], code: str) -> None:
    authenticator = verifier(audience="wsd", issuer="me", require_topics=True)
    signed = token(**{"aud": "wsd", "iss": "me", "topics": []} | claims)
    with pytest.raises(TokenError) as caught:
        authenticator.verify(signed)
    assert (caught.value.reason, caught.value.subject) == (code, "ann")
    for forged in (signed[:-2] + "AA", signed.rpartition(".")[0] + ".", signed[1:]):
        with pytest.raises(TokenError) as caught:
            authenticator.verify(forged)
        assert (caught.value.reason, caught.value.subject) == ("invalid", "")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ("", "the token is empty"),
        ("abc", "has 1 part between dots, not 3"),
        ("a.b.c.d", "has 4 parts between dots, not 3"),
        ("a.b.c.d.e", "is encrypted (JWE)"),
        (f"Bearer {token()}", "the word Bearer"),
        (f"bearer {MARK}", "the word Bearer"),
        (f'"{token()}"', "the header is not base64url"),
        (f" {token()}", "the header is not base64url"),
        (token() + "\n", "the signature is not base64url"),
        (token() + "==", "the signature is not base64url"),
        ("é.é.é", "the header is not base64url"),
        (by_hand("{}", "alg"), "the header is not JSON"),
        (by_hand("{}", "[]"), "the header is not a JSON object"),
        (by_hand("{}", b"\xff"), "the header is not JSON"),
        (by_hand("{}", "{}"), "alg is missing or unknown; jwt_algorithms allows HS256"),
        (by_hand("{}", '{"alg":"none"}'), "alg is none; jwt_algorithms allows HS256"),
        (by_hand("{}", '{"alg":"RS256"}'), "alg is RS256; jwt_algorithms allows HS256"),
        (by_hand("{}", '{"alg":"HS256","kid":5}'), "kid is not a string"),
        (by_hand("{}", '{"alg":"HS256","kid":null}'), "kid is not a string"),
        (by_hand("{}", '{"alg":"HS256","crit":["exp"]}'), "an extension (crit, b64)"),
        (by_hand("{}", '{"alg":"HS256","b64":false}'), "an extension (crit, b64)"),
        (by_hand("{", key=KEY), "the payload is not JSON"),
        (by_hand("[]"), "the payload is not a JSON object"),
        ("A" * 16_385, "is 16385 characters long; at most 16384 are read"),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_the_log_says_which_rule_a_token_breaks(sent: str, words: str) -> None:
    assert words in refusal(sent)


def test_the_size_of_a_token_has_a_bound() -> None:
    large = token(x="x" * 20_000)
    assert "at most" in refusal(large)
    verifier(max_size=len(large)).verify(large)
    refusal(large, verifier(max_size=len(large) - 1))


@pytest.mark.parametrize("padding", ["", "=", "==", "==="])
def test_a_part_may_be_padded_but_only_right(padding: str) -> None:
    for spaces in range(3):
        header = '{"alg":"HS256"}' + " " * spaces
        right = "=" * (-len(part(header)) % 4)
        signed = f"{part(header)}{padding}.{part(json.dumps({'exp': SOON}))}"
        sent = f"{signed}.{part(hmac.digest(KEY, signed.encode(), hashlib.sha256))}"
        if padding in ("", right):
            verifier().verify(sent)
        else:
            assert "the header is not base64url" in refusal(sent)


@pytest.mark.parametrize("bogus", [by_hand('{"x":"' + "x" * 9000 + '"}', key=KEY[1:]), "A" * 12_000 + ".A.A"])
def test_a_bogus_token_costs_little(bogus: str) -> None:
    def cost(work: Callable[[], object]) -> float:
        runs = []
        for _ in range(5):
            started = time.process_time()
            for _ in range(20):
                with suppress(TokenError):
                    work()
            runs.append(time.process_time() - started)
        return min(runs)

    authenticator, good = verifier(), token()
    # Both take about as long. A look at every character in Python would take 30 times as long.
    assert cost(lambda: authenticator.verify(bogus)) < 10 * cost(lambda: authenticator.verify(good))


# What a grant permits.


@pytest.mark.parametrize(
    ("topics", "permitted", "forbidden"),
    [
        (["news"], ["news"], ["new", "newsroom", "News", "", "news*"]),
        (["news*"], ["news", "newsroom", "news*"], ["new", "xnews", ""]),
        (["*"], ["", "a", "é", "*"], []),
        (["**"], ["*", "*a"], ["", "a"]),
        (["a*b"], ["a*b"], ["ab", "axb"]),
        (["[a]", "?"], ["[a]", "?"], ["a", "b"]),
        ([], [], ["", "a", "*"]),
        ([""], [""], ["a"]),
        (["é*", "日本"], ["é", "été"[2:], "日本"], ["e\u0301", "日", "日本語"]),
        (["a", "b:*", "c"], ["a", "b:", "b:x", "c"], ["b", "ab:x", "cc"]),
        (["\ud800*"], [], ["a"]),
    ],
)
def test_a_grant_permits_exact_topics_and_prefixes(
    topics: list[str], permitted: list[str], forbidden: list[str]
) -> None:
    grant = verifier().verify(token(topics=topics))
    assert [topic for topic in permitted + forbidden if grant.permits(topic)] == permitted


@relaxed
@given(st.lists(st.text("ab*", max_size=3), max_size=4), st.text("ab*", max_size=4))
def test_permission_is_by_the_rule_and_no_other(topics: list[str], topic: str) -> None:
    by_the_rule = any(topic.startswith(t[:-1]) if t.endswith("*") else topic == t for t in topics)
    assert verifier().verify(token(topics=topics)).permits(topic) is by_the_rule


def test_without_the_claim_every_topic_is_permitted() -> None:
    assert verifier().verify(token()).permits("anything")


def test_with_authentication_off_any_string_will_do() -> None:
    authenticator: Authenticator = OpenAuthenticator()
    assert authenticator.initial is EVERYTHING
    assert authenticator.verify("\ud800") is EVERYTHING
    assert EVERYTHING.permits("anything")
    assert EVERYTHING.expires_at == math.inf


# Whatever a token holds.

LEAVES = st.sampled_from(
    [MARK, "*", SOON, 0, -1, 1e308, 10**400, True, None, math.nan, math.inf, "HS256", "ann", "\ud800"]
)
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.sampled_from([MARK, "a"]), LEAVES, max_size=2)
CLAIMS = st.dictionaries(
    st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "sub", "jti", "topics", MARK]), VALUES, max_size=5
)
HEADERS = st.dictionaries(st.sampled_from(["typ", "kid", "crit", "b64", "cty", MARK]), VALUES, max_size=3)
ANYTHING = st.recursive(VALUES, lambda values: st.lists(values) | st.dictionaries(st.text(), values))


@relaxed
@given(CLAIMS | ANYTHING, HEADERS)
def test_whatever_is_signed_is_a_grant_or_a_refusal(claims: Any, header: dict[str, Any]) -> None:
    signed = by_hand(json.dumps(claims), json.dumps({"alg": "HS256"} | header))
    try:
        grant = verifier().verify(signed)
    except TokenError:
        grant = None
    if grant is None:
        refusal(signed)
    else:
        # PyJWT, which knows more attacks than one project meets, must accept whatever is accepted here.
        claims_by_pyjwt = jwt.decode(signed, KEY, algorithms=["HS256"], options={"verify_iat": False})
        assert json.dumps(claims_by_pyjwt) == json.dumps(claims)
        assert type(claims["exp"]) in (int, float)
        assert math.isfinite(grant.expires_at)
        assert type(grant.subject) is str
        assert all(type(topic) is str for topic in (*grant.topics, *grant.prefixes))


PIECES = st.sampled_from([*token().split("."), ".", "=", "", MARK, part(MARK), part("{}"), "\ud800", "\0"]) | st.text(
    st.characters()
)


@relaxed
@given(st.lists(PIECES, max_size=7).map("".join))
def test_whatever_is_sent_for_a_token_is_refused_without_repeating_it(text: str) -> None:
    if text != token():
        refusal(f"{text}{MARK}")
        refusal(f"{MARK}{text}")


def test_no_token_makes_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verifier().verify(token())
        refusal("x")
