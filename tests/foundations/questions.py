"""The questions of the chapter, in its order, and the test that answers each.

The notebooks' index links to these. `python -m pytest tests/foundations/FILE::TEST` runs an answer.
"""

from typing import NamedTuple


class Question(NamedTuple):
    """One question.

    Attributes:
        number: "Q1" to "Q40"; "F1" to "F4" for the further research.
        title: the question in few words.
        file: where the answer is, in this folder.
        test: its name there.
    """

    number: str
    title: str
    file: str
    test: str


_LAYERS = "test_questions_1_layers.py"
_ARRAYS = "test_questions_2_arrays.py"
_PASSES = "test_questions_3_passes.py"

QUESTIONS = [
    Question("Q1", "A single neuron in plain Python", _LAYERS, "test_Q01_a_single_neuron"),
    Question("Q2", "ReLU", _LAYERS, "test_Q02_relu"),
    Question(
        "Q3",
        "A dense layer by matrix multiplication",
        _LAYERS,
        "test_Q03_a_dense_layer_by_a_matrix_product",
    ),
    Question(
        "Q4", "A dense layer in plain Python", _LAYERS, "test_Q04_a_dense_layer_in_plain_python"
    ),
    Question("Q5", "What the hidden size is", _LAYERS, "test_Q05_hidden_size"),
    Question("Q6", "What transposing does", _LAYERS, "test_Q06_transpose"),
    Question(
        "Q7",
        "Why matrix multiplication in plain Python is slow",
        _LAYERS,
        "test_Q07_why_plain_python_is_slow",
    ),
    Question("Q8", "Why inner sizes must agree", _LAYERS, "test_Q08_inner_sizes"),
    Question("Q9", "How to measure the time of a cell", _LAYERS, "test_Q09_measuring_time"),
    Question("Q10", "What elementwise arithmetic is", _ARRAYS, "test_Q10_elementwise_arithmetic"),
    Question(
        "Q11",
        "Whether every element is greater than its partner",
        _ARRAYS,
        "test_Q11_is_every_element_greater",
    ),
    Question("Q12", "Rank-0 arrays and Python numbers", _ARRAYS, "test_Q12_rank_0"),
    Question("Q13", "Two elements plus one", _ARRAYS, "test_Q13_one_element_against_two"),
    Question("Q14", "Two elements plus three", _ARRAYS, "test_Q14_two_elements_against_three"),
    Question(
        "Q15",
        "How elementwise arithmetic speeds up the product",
        _ARRAYS,
        "test_Q15_elementwise_speeds_up_the_product",
    ),
    Question("Q16", "The broadcasting rules", _ARRAYS, "test_Q16_broadcasting_rules"),
    Question("Q17", "What expand_as is", _ARRAYS, "test_Q17_expand_as"),
    Question(
        "Q18",
        "How unsqueeze helps with broadcasting",
        _ARRAYS,
        "test_Q18_unit_axes_choose_the_direction",
    ),
    Question("Q19", "Unsqueeze by indexing", _ARRAYS, "test_Q19_unit_axes_by_indexing"),
    Question(
        "Q20",
        "The actual contents of an array's memory",
        _ARRAYS,
        "test_Q20_the_contents_of_memory",
    ),
    Question(
        "Q21", "Is a vector added to rows or to columns?", _ARRAYS, "test_Q21_rows_or_columns"
    ),
    Question(
        "Q22", "Does broadcasting cost memory?", _ARRAYS, "test_Q22_does_broadcasting_cost_memory"
    ),
    Question("Q23", "The matrix product by einsum", _ARRAYS, "test_Q23_the_product_by_einsum"),
    Question(
        "Q24", "What a repeated letter means in einsum", _ARRAYS, "test_Q24_a_repeated_letter"
    ),
    Question("Q25", "The three rules of Einstein summation", _ARRAYS, "test_Q25_the_three_rules"),
    Question(
        "Q26",
        "The forward pass and the backward pass",
        _PASSES,
        "test_Q26_forward_and_backward_pass",
    ),
    Question("Q27", "Why activations are stored", _PASSES, "test_Q27_why_activations_are_stored"),
    Question(
        "Q28", "Activations of deviation far from 1", _PASSES, "test_Q28_deviation_far_from_1"
    ),
    Question("Q29", "How initialisation helps", _PASSES, "test_Q29_what_initialisation_does"),
    Question(
        "Q30",
        "The formula for the initial weights",
        _PASSES,
        "test_Q30_the_formula_with_and_without_relu",
    ),
    Question("Q31", "Why losses need squeeze", _PASSES, "test_Q31_squeeze_in_the_loss"),
    Question("Q32", "The argument of squeeze", _PASSES, "test_Q32_squeeze_with_an_axis"),
    Question("Q33", "The chain rule", _PASSES, "test_Q33_the_chain_rule"),
    Question(
        "Q34",
        "The gradients of mse(lin(l2, w2, b2), y)",
        _PASSES,
        "test_Q34_gradients_of_mse_of_lin",
    ),
    Question("Q35", "The gradient of ReLU", _PASSES, "test_Q35_gradient_of_relu"),
    Question(
        "Q36",
        "The order of the backward calls",
        _PASSES,
        "test_Q36_the_order_of_the_backward_calls",
    ),
    Question("Q37", "What __call__ is", _PASSES, "test_Q37_call"),
    Question(
        "Q38",
        "What a function with its own gradient must define",
        _PASSES,
        "test_Q38_what_a_rule_must_define",
    ),
    Question("Q39", "A linear layer from scratch", _PASSES, "test_Q39_a_linear_layer_from_scratch"),
    Question("Q40", "How two libraries' modules differ", _PASSES, "test_Q40_modules"),
    Question(
        "F1", "ReLU as an own function, trained with", _PASSES, "test_F1_the_same_rule_trains"
    ),
    Question(
        "F2",
        "The linear layer's gradients in mathematics and in code",
        _PASSES,
        "test_F2_the_linear_layer_in_mathematics",
    ),
    Question(
        "F3",
        "A convolution from unfold and a product, trained with",
        _PASSES,
        "test_F3_convolution_by_unfold_and_a_product",
    ),
    Question("F4", "The whole chapter in NumPy", _PASSES, "test_F4_the_chapter_in_numpy"),
]
