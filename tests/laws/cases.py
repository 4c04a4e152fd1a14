"""All cases: at least one of every compression."""

from laws.cases_combined import COMBINED
from laws.cases_of_factors import FACTORS
from laws.cases_of_sparsity import SPARSITY
from laws.cases_of_values import VALUES

CASES = [*VALUES, *SPARSITY, *FACTORS, *COMBINED]
