"""The mutants: faults that implementations of PBFT really had, or a rule of this one taken away.

Each is in the file for what it breaks, in the section for the file that it patches.
"""

from tests.mutants.builds_mutants import BUILDS_MUTANTS
from tests.mutants.caches_mutants import CACHES_MUTANTS
from tests.mutants.cases_mutants import CASES_MUTANTS
from tests.mutants.catch_up_mutants import CATCH_UP_MUTANTS
from tests.mutants.checkpoints_mutants import CHECKPOINTS_MUTANTS
from tests.mutants.dependencies_mutants import DEPENDENCIES_MUTANTS
from tests.mutants.driver_mutants import DRIVER_MUTANTS
from tests.mutants.epochs_mutants import EPOCHS_MUTANTS
from tests.mutants.limits_mutants import LIMITS_MUTANTS
from tests.mutants.login_mutants import LOGIN_MUTANTS
from tests.mutants.mutation_runner import Mutant
from tests.mutants.normal_case_mutants import NORMAL_CASE_MUTANTS
from tests.mutants.pipelines_mutants import PIPELINES_MUTANTS
from tests.mutants.recovery_mutants import RECOVERY_MUTANTS
from tests.mutants.storage_mutants import STORAGE_MUTANTS
from tests.mutants.view_changes_mutants import VIEW_CHANGES_MUTANTS

MUTANTS: tuple[Mutant, ...] = (
    *NORMAL_CASE_MUTANTS,
    *VIEW_CHANGES_MUTANTS,
    *CHECKPOINTS_MUTANTS,
    *CATCH_UP_MUTANTS,
    *RECOVERY_MUTANTS,
    *BUILDS_MUTANTS,
    *LIMITS_MUTANTS,
    *EPOCHS_MUTANTS,
    *LOGIN_MUTANTS,
    *CASES_MUTANTS,
    *DEPENDENCIES_MUTANTS,
    *CACHES_MUTANTS,
    *PIPELINES_MUTANTS,
    *DRIVER_MUTANTS,
    *STORAGE_MUTANTS,
)
