"""The invariants of every kind of component, for plugin authors to run over their own.

In a plugin's own tests, one line per component::

    from flexvar import contract

    def test_my_backbone():
        contract.check("backbone", "my_backbone")

or one test per invariant and combination of parts::

    @pytest.mark.parametrize("case", contract.cases("backbone", "my_backbone"), ids=str)
    def test_contract(case):
        case.run()

A component is tried with every registered partner, at small sizes. A component that needs
options, or small ones, says so in a class attribute: a tuple of mappings, each a variant to be
tried; as a partner of others it takes the first::

    contract_options = ({"depth": 2, "width": 64}, {"depth": 2, "width": 64, "gated": True})

Weights are moved away from their fresh values before anything is measured: a network that starts
as the identity would hide its mistakes.
"""

from flexvar.contract.cases import Case, cases, check
from flexvar.contract.measure import ContractViolation

__all__ = ["Case", "ContractViolation", "cases", "check"]
