"""Mutants of who may change something: roles, sessions, logins, and whose word a change is."""

from tests.mutants.mutation_runner import Mutant

_APPLICATION = "ci/application.py"
_ATTEMPTS = "client/login/attempts.py"
_FORMS = "client/api/change_routes.py"
_NOTES = "ci/notes.py"
_PEOPLE = "client/login/people.py"
_PROVIDERS = "client/login/providers.py"
_ROLES = "client/login/roles.py"
_SESSIONS = "client/storage/sessions.py"
_TOKEN = "client/login/id_token.py"

_ATTEMPTS_TEST = "tests/client/login/test_attempts.py::"
_NOTES_TEST = "tests/ci/test_notes.py::"
_PAGES_TEST = "tests/client/dashboard/test_login_pages.py::"
_PROVIDERS_TEST = "tests/client/login/test_providers.py::"
_ROLES_TEST = "tests/client/login/test_roles.py::"
_TABLES_TEST = "tests/client/storage/test_people_tables.py::"
_TOKEN_TEST = "tests/client/login/test_id_token.py::"

LOGIN_MUTANTS: tuple[Mutant, ...] = (
    # --- roles ------------------------------------------------------------------------------------
    Mutant(
        name="login P1 a group is matched by a part of its name",
        file=_ROLES,
        old="        return wanted in person.groups\n",
        new="        return any(wanted in group for group in person.groups)\n",
        test=_ROLES_TEST + "test_a_rule_means_whom_it_names_exactly",
    ),
    Mutant(
        name="login P2 rules of all repositories add up with a repository's own",
        file=_ROLES,
        old="        return any(means(rule, person) for rule in _rules_of(rules, role))\n",
        new="        return any(\n"
        "            means(rule, person)\n"
        "            for each in (rules, self._for_all)\n"
        "            for rule in _rules_of(each, role)\n"
        "        )\n",
        test=_ROLES_TEST + "test_a_repository_with_rules_of_its_own_has_no_others",
    ),
    Mutant(
        name="login P3 whoever may rebuild may approve",
        file=_ROLES,
        old="            return rules.approve\n",
        new="            return (*rules.approve, *rules.rebuild)\n",
        test=_ROLES_TEST + "test_a_role_gives_no_other_role",
    ),
    # --- who changes something --------------------------------------------------------------------
    Mutant(
        name="login P4 a person changes what they have no role for",
        file=_FORMS,
        old="            if not self.people.may(person, role, repository):\n",
        new="            if not self.people.roles.has_any(person):\n",
        test=_PAGES_TEST + "test_a_person_without_the_role_is_refused_and_sees_no_button",
    ),
    Mutant(
        name="login P5 with login, this machine may change anything",
        file=_FORMS,
        old="is_for_others(config) or people is not None\n",
        new="is_for_others(config)\n",
        test=_PAGES_TEST + "test_nobody_on_this_machine_may_without_a_session",
    ),
    Mutant(
        name="login P6 a header counts from every address",
        file=_PEOPLE,
        old='        if not self._is_proxy(request.remote or ""):\n',
        new="        if False:\n",
        test=_PAGES_TEST + "test_a_proxys_header_counts_from_its_own_address_alone",
    ),
    Mutant(
        name="login P7 people without a role read where reading takes a token",
        file=_PEOPLE,
        old="        return person is not None and self.roles.has_any(person)\n",
        new="        return person is not None\n",
        test=_PAGES_TEST + "test_where_reading_takes_a_token_people_with_a_role_read",
    ),
    # --- logins -----------------------------------------------------------------------------------
    Mutant(
        name="login P8 any state belongs to an attempt",
        file=_ATTEMPTS,
        old="        if not hmac.compare_digest(attempt.state.encode(), state.encode()):\n",
        new="        if not state:\n",
        test=_ATTEMPTS_TEST + "test_another_browsers_answer_counts_for_nothing",
    ),
    Mutant(
        name="login P9 any path is gone to after a login",
        file=_ATTEMPTS,
        old='    return text if is_local and not text.startswith(("/login", "/logout")) else "/"\n',
        new='    return text if text.startswith("/") else "/"\n',
        test=_ATTEMPTS_TEST + "test_no_other_place_is_gone_to",
    ),
    Mutant(
        name="login P10 an id token of another attempt counts",
        file=_TOKEN,
        old='    if claims["nonce"] != nonce:\n',
        new='    if not claims["nonce"]:\n',
        test=_TOKEN_TEST + "test_a_token_with_another_claim_is_refused",
    ),
    Mutant(
        name="login P11 an id token for another client counts",
        file=_TOKEN,
        old='        aud={"essential": True, "value": client_id},\n',
        new='        aud={"essential": True},\n',
        test=_TOKEN_TEST + "test_a_token_with_another_claim_is_refused",
    ),
    Mutant(
        name="login P12 the provider sends the gateway elsewhere",
        file=_PROVIDERS,
        old="            if origin_of(url) != origin:\n",
        new="            if origin_of(url) is None:\n",
        test=_PROVIDERS_TEST + "test_a_provider_that_names_others_or_says_too_much_is_not_asked",
    ),
    Mutant(
        name="login P13 userinfo may be about somebody else",
        file=_PROVIDERS,
        old='            if more.get("sub") != claims["sub"]:\n',
        new='            if more.get("sub") is None:\n',
        test=_PROVIDERS_TEST
        + "test_claims_that_the_token_lacks_come_from_userinfo_of_the_same_person",
    ),
    # --- sessions ---------------------------------------------------------------------------------
    Mutant(
        name="login P14 a session never ends",
        file=_SESSIONS,
        old='"SELECT person FROM sessions WHERE digest = ? AND ends_at > ?"',
        new='"SELECT person FROM sessions WHERE digest = ? AND ends_at > -?"',
        test=_TABLES_TEST + "test_a_session_ends_at_its_time",
    ),
    Mutant(
        name="login P15 a login goes on with the session that the browser had",
        file=_PEOPLE,
        old="        session = self.draw(SESSION_BYTES)\n",
        new='        session = bytes.fromhex("ab" * SESSION_BYTES)\n',
        test=_PAGES_TEST + "test_each_login_is_a_new_session_and_the_cookie_is_for_browsers_alone",
    ),
    # --- whose word a change is -------------------------------------------------------------------
    Mutant(
        name="login P16 one client's notes use up another's places",
        file=_NOTES,
        old="        if self._counts.get(build, {}).get(client, 0) >= NOTES_PER_CLIENT_MAX:\n",
        new="        if sum(self._counts.get(build, {}).values()) >= NOTES_PER_CLIENT_MAX:\n",
        test=_NOTES_TEST + "test_each_client_has_so_many_places_on_a_build_and_uses_up_no_others",
    ),
    Mutant(
        name="login P17 a person is named beside every client that asked",
        file=_APPLICATION,
        old="build.person if asker.request_digest == build.request_digest else None",
        new="build.person",
        test=_NOTES_TEST + "test_whoever_had_it_built_again_is_beside_that_client_alone",
    ),
    Mutant(
        name="login P18 notes on builds that nobody knows",
        file=_APPLICATION,
        old="        if not (build in self._builds or build in self._closed"
        " or build in self._deliveries):\n",
        new="        if False:\n",
        test=_NOTES_TEST + "test_only_a_build_that_the_state_remembers_takes_notes",
    ),
)
