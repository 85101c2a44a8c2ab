"""Adds to the reference what the source alone does not say: signatures by a decorator, links between docstrings."""

import re

import griffe

SEE = re.compile(r"(as (?:in|of|those of)|see) `(\w+)`")  # "Arguments and result as in `insertion`."


class Reference(griffe.Extension):
    """Completes functions and their docstrings."""

    def on_function(self, *, func: griffe.Function, **kwargs) -> None:
        """Adds the arguments of the methods that `deterministic.method` makes."""
        if any(str(decorator.value) == "deterministic.method" for decorator in func.decorators):
            func.parameters.add(griffe.Parameter("key", annotation="chex.PRNGKey | None", default="None",
                                                 kind=griffe.ParameterKind.positional_or_keyword))
            func.parameters.add(griffe.Parameter("batch_size", annotation="int", default="256",
                                                 kind=griffe.ParameterKind.keyword_only))

    def on_package(self, *, pkg: griffe.Module, **kwargs) -> None:
        """Makes links of the names of neighbors that docstrings refer to."""
        self._link(pkg)

    def _link(self, scope: griffe.Object) -> None:
        def link(match: re.Match) -> str:
            words, name = match.groups()
            if name not in scope.members:
                return match[0]
            return f'{words} <autoref identifier="{scope.path}.{name}" optional>`{name}`</autoref>'

        for member in scope.members.values():
            if isinstance(member, griffe.Object):
                if member.docstring:
                    member.docstring.value = SEE.sub(link, member.docstring.value)
                self._link(member)
