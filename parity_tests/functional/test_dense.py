from parity_tests.functional.attention_contract import AttentionContract


class TestXla(AttentionContract):
    implementation = "xla"
